// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// golden compares with testdata/NAME.txt; XDPHA_UPDATE=1 rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if os.Getenv("XDPHA_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs from what is rendered (XDPHA_UPDATE=1 rewrites it):\n%s", path, d)
	}
	for line := range strings.Lines(got) {
		if strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
			t.Errorf("line ends with spaces: %q", line)
		}
	}
}

func sampleStatus() control.Status {
	link := func(name, nic string, p50 float64) control.Link {
		return control.Link{Name: name, Interface: nic, Up: true, LastHeardUS: 420, RTTUS: control.RTT{P50: p50, P99: 3 * p50, Max: 20 * p50}, GapMaxUS: 1912, Mode: "native"}
	}
	return control.Status{
		Node: "serv2", Time: time.Date(2026, 11, 23, 9, 41, 7, 0, time.UTC), Version: "v0.1.0", Cluster: "lj64",
		Peer: control.Peer{Name: "serv1", State: control.PeerUp, BootID: "1f2e3d4c5b6a7988", Supervisor: control.SupervisorUp, SupervisorAgeUS: 48_000,
			Services: map[string]string{"files": control.ServicesUp}, Policy: control.Policy{SupervisorLost: control.PolicyTakeover, AfterUS: 750_000}},
		Pacer: control.Pacer{Mode: "kernel (fq)", Wanted: "auto", LastTickUS: 310, GapMaxUS: 1260, TokensSent: 1}, RightToServeUS: new(int64(3900)),
		Links: []control.Link{link("crossover", "eth1", 11.2), link("lan", "eth0", 14.5), link("spare", "eth2", 14.9)},
		Identities: []control.Identity{
			{Name: "files", Home: "serv1", Owner: "serv1", Generation: 3, Gate: "closed", Carrier: "lan", Armed: true, Addresses: []string{"192.0.2.21/24", "2001:db8::21/64"}, MAC: "02:4c:4a:00:00:21", Tickle: &control.Tickle{Known: 7}},
			{Name: "mail", Home: "serv2", Owner: "serv2", Generation: 1, Gate: "open", Carrier: "spare", Addresses: []string{"192.0.2.22/24"}, MAC: "02:4c:4a:00:00:22"},
		},
		Services: []control.Service{{Name: "dns", State: "up"}, {Name: "imap", State: "up", Restarts: 1}, {Name: "samba", State: "stopped"}},
		Mirrors:  []control.Mirror{{Name: "mails", Direction: control.MirrorOut, LagS: 12.3}, {Name: "samba-data", Direction: control.MirrorIn, LagS: 2}},
		Arbiter: control.Arbiter{Kind: "reach", Satisfied: true, Reached: 3, Needed: 2, Hosts: []control.ArbiterHost{
			{Address: "192.0.2.1", Reached: true}, {Address: "192.0.2.53", Reached: true}, {Address: "192.0.2.54", Reached: true}}},
	}
}

// manyStatus is what serv2 of four knows: serv4 is dead, serv3's crossover has no cable.
func manyStatus() control.Status {
	s := sampleStatus()
	peer := func(name, state, supervisor string, down ...string) control.Peer {
		p := control.Peer{Name: name, State: state, Supervisor: supervisor, SupervisorAgeUS: 48_000, Policy: s.Peer.Policy, Services: map[string]string{}}
		for _, l := range s.Links {
			l.Up = !slices.Contains(down, l.Name)
			p.Links = append(p.Links, l)
		}
		return p
	}
	s.Peers = []control.Peer{
		peer("serv1", control.PeerUp, control.SupervisorUp), peer("serv3", control.PeerUp, control.SupervisorUp, "crossover"),
		peer("serv4", control.PeerDead, control.SupervisorUnknown, "crossover", "lan", "spare"),
	}
	s.Peers[0].Services["files"] = control.ServicesUp
	s.Peer = control.Worst(s.Peers)
	for i := range s.Links {
		s.Links[i].Up = false
	}
	s.Identities[0].Prefer, s.Identities[1].Prefer = []string{"serv4", "serv2"}, []string{"serv1", "serv3", "serv4"}
	s.Identities = append(s.Identities, control.Identity{Name: "web", Home: "serv3", Prefer: []string{"serv1"}, Owner: "serv3", Generation: 7, Gate: "closed",
		Addresses: []string{"192.0.2.23/24"}, MAC: "02:4c:4a:00:00:23"})
	s.Arbiter = control.Arbiter{Kind: "etcd", Satisfied: true, Etcd: &control.Etcd{Reached: true, Keys: []control.EtcdKey{
		{Identity: "files"}, {Identity: "mail", Holder: "serv2", Generation: 1, LeftUS: 2_900_000}, {Identity: "web"}}}}
	return s
}

func illStatus() control.Status {
	s := sampleStatus()
	s.Peer.State, s.Peer.Supervisor, s.Peer.Services = control.PeerDead, control.SupervisorUnknown, nil
	for i := range s.Links {
		s.Links[i].Up, s.Links[i].LastHeardUS = false, 73_000_000
	}
	s.Identities[0].Owner, s.Identities[0].Generation, s.Identities[0].Gate, s.Identities[0].Armed = "serv2", 4, "open", false
	s.Services[2] = control.Service{Name: "samba", State: "failing", Restarts: 2, Reason: "check: exit status 1"}
	s.Mirrors[0] = control.Mirror{Name: "mails", Direction: control.MirrorOut, LagS: -1, Error: "reach serv1: crossover: no route to host; lan: no route to host"}
	s.Mirrors[1] = control.Mirror{Name: "samba-data", Direction: control.MirrorOut, LagS: 75, Running: true, Link: "lan",
		Progress: &control.MirrorProgress{Percent: 41, FilesLeft: 7033}, Unwatched: "watch for changes: no space left on device"}
	s.Arbiter.Reached, s.Arbiter.Hosts[1].Reached = 2, false
	s.Frozen = true
	s.LastTakeover = &control.Takeover{Identity: "files", Time: time.Date(2026, 11, 23, 9, 39, 54, 0, time.UTC), Cause: "peer-dead", Generation: 4,
		DetectUS: 5012, FlipUS: 5014, AnnounceUS: 5240, AddressUS: 7100,
		Timeline: control.Timeline{From: control.FromEvidence, AtNS: 3_600_000_000_000, SuspectUS: 3004, DeadUS: 5012, FlipUS: 5014, AnnouncedUS: 5240,
			InUS: 5350, OutUS: 5352, AddressesUS: 7100, RepeatedUS: 7300}}
	return s
}

func samplePing() control.Ping {
	p := control.Ping{ForNS: 1e9}
	for i, name := range []string{"crossover", "lan"} {
		l := control.PingLink{Name: name, Sent: 1000, Lost: uint64(i)}
		for n := range 1000 - i {
			l.RTT.Observe(uint64(9000 + i*3000 + n*n/50))
		}
		p.Links = append(p.Links, l)
	}
	p.Links = append(p.Links, control.PingLink{Name: "spare", Sent: 1000, Lost: 1000})
	return p
}

func TestStatusOfAHealthyPair(t *testing.T) {
	s := sampleStatus()
	if a := attention(s); len(a) != 0 {
		t.Errorf("a healthy pair needs attention: %q", a)
	}
	golden(t, "status-healthy", statusText(s))
}

func TestStatusOfMany(t *testing.T) {
	s := manyStatus()
	golden(t, "status-many", statusText(s))
	want := []string{"serv4 is dead: it would take nothing over", "link crossover (eth1) is down to serv3"}
	if diff := cmp.Diff(want, attention(s)); diff != "" {
		t.Errorf("needs attention (-want +got):\n%s", diff)
	}
	s.Identities[0].Armed = false // whose owner is up
	if got := attention(s); !slices.Contains(got, "this node is not ready to take files: -") {
		t.Errorf("it is silent about what it would not take: %q", got)
	}
	s.Identities[0].Owner = "serv4" // who is dead: what that means is the takeover's to tell
	if got := attention(s); slices.Contains(got, "this node is not ready to take files: -") {
		t.Errorf("needs attention: %q", got)
	}
}

// A newer command may ask a daemon that was started before the upgrade.
func TestStatusOfADaemonThatTellsOfOnePeer(t *testing.T) {
	s := sampleStatus()
	told := s
	told.Identities = slices.Clone(s.Identities)
	told.Peers = []control.Peer{s.Peer}
	told.Peers[0].Links = s.Links
	for i := range told.Identities {
		told.Identities[i].Prefer = []string{"serv1"}
	}
	if diff := cmp.Diff(statusText(told), statusText(s)); diff != "" {
		t.Errorf("told of all, and of one:\n%s", diff)
	}
}

func TestStatusTellsThePeersThreeValuesApart(t *testing.T) {
	s := sampleStatus()
	s.Peer.State, s.Peer.Supervisor, s.Peer.Solo = control.PeerSupervisorLost, control.SupervisorLost, true
	s.Peer.Services["files"], s.Peer.Policy.SupervisorLost = control.ServicesDown, control.PolicyWait
	s.RightToServeUS = new(int64)
	text := statusText(s)
	for _, want := range []string{
		"peer serv1: kernel up, supervisor lost, services of files down; it serves by the arbiter's leave", "silent for 750ms: nothing, until",
		"right to serve: has run out", "! the services of files, which serv1 owns, are not up there",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	s.Arbiter.Kind = "none"
	if s.RightToServeUS = nil; !strings.Contains(statusText(s), "not asked for (arbiter none)") {
		t.Error("arbiter none is not told")
	}
}

func TestStatusTellsWhatTheFenceAgentDid(t *testing.T) {
	s := illStatus()
	at := time.Date(2026, 11, 23, 9, 39, 53, 0, time.UTC)
	s.Arbiter.Kind = "reach+fence"
	s.Arbiter.Fence = &control.Fence{Agent: "fence_ipmilan", State: control.FencePeerOff, LastResult: "off", LastAt: &at}
	if text := statusText(s); !strings.Contains(text, "arbiter reach+fence: reaches 2 of 3 hosts") ||
		!strings.Contains(text, "fence agent fence_ipmilan: the peer is off; last run: off, at 2026-11-23 09:39:53") {
		t.Error(text)
	}
	s.Arbiter.Fence.State, s.Arbiter.Fence.LastResult, s.Arbiter.Fence.LastError = control.FenceIdle, "failed", "exit status 1: no route"
	if text := statusText(s); !strings.Contains(text, "! serv1 could not be switched off, and nothing of it is taken before it is: exit status 1: no route") {
		t.Error(text)
	}
}

func TestStatusTellsWhoHoldsAKeyInEtcd(t *testing.T) {
	s := illStatus()
	s.Arbiter = control.Arbiter{Kind: "etcd", Etcd: &control.Etcd{Error: "etcd does not answer: silent", Keys: []control.EtcdKey{
		{Identity: "files", Holder: "serv2", Generation: 7, LeftUS: 2_900_000}, {Identity: "mail", Holder: "serv1", Generation: 6}, {Identity: "web"},
	}}}
	text := statusText(s)
	for _, want := range []string{
		"arbiter etcd\n", "not reached: etcd does not answer: silent", "key of files: held here for 2.9", "key of mail: held by serv1", "key of web: nobody needs it",
		"! the arbiter would not let this node take or keep anything",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("without %q:\n%s", want, text)
		}
	}
}

var pairOfNodes = []config.Node{{Name: "serv1"}, {Name: "serv2"}}

func TestACheckSaysWhoSurvivesAPartitionWithEtcd(t *testing.T) {
	cfg := &config.Config{Arbiter: config.Arbiter{Etcd: &config.Etcd{Endpoints: []string{"http://192.0.2.9:2379"}, TTL: 4 * time.Second}}}
	if text := partitionWords(cfg); !strings.Contains(text, "at most 4s") || !strings.Contains(text, "never two owners") {
		t.Error(text)
	}
	if text := arbiterWords(cfg); !strings.Contains(text, "key in etcd") {
		t.Error(text)
	}
	text := strings.Join(warnings(cfg), "; ")
	for _, want := range []string{"lists 1 of its members", "without TLS"} {
		if !strings.Contains(text, want) {
			t.Errorf("without %q: %s", want, text)
		}
	}
}

func TestStatusAfterATakeover(t *testing.T) { golden(t, "status-ill", statusText(illStatus())) }

func TestAPlannedChangeHasNoDetection(t *testing.T) {
	for _, st := range takeoverStages(control.Timeline{From: control.FromFlip, AnnouncedUS: 30, InUS: 12}) {
		if st.name == "dead" || st.name == "owned (flip)" {
			t.Errorf("it has stage %q", st.name)
		}
	}
	s := sampleStatus()
	s.LastTakeover = &control.Takeover{Identity: "files", Cause: "hand-over", Timeline: control.Timeline{From: control.FromFlip, AnnouncedUS: 30}}
	if text := statusText(s); !strings.Contains(text, "after the flip") {
		t.Errorf("the status does not say from what it counts:\n%s", text)
	}
}

func TestStagesOfAnotherChangeAreNotInTheTimeline(t *testing.T) {
	o := sampleRun()
	for name, set := range map[string]func(*control.Takeover){
		"an earlier change":  func(t *control.Takeover) { t.Generation = o.before },
		"another identity":   func(t *control.Takeover) { t.Identity = "mail" },
		"before the fault":   func(t *control.Takeover) { t.Timeline.AtNS -= 1e9 },
		"nothing is reached": func(t *control.Takeover) { t.Timeline.InUS, t.Timeline.OutUS = 0, 0 },
	} {
		other := *o.takeover
		set(&other)
		changed := o
		changed.takeover = &other
		if got := newOwnersStages(changed); len(got) != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := newOwnersStages(o); len(got) != 2 {
		t.Errorf("of this change: %v", got)
	}
}

func TestAPeerThatIsHeardAcrossOnlyIsTroubleOnce(t *testing.T) {
	across := []control.Link{{Name: "lan-spare"}, {Name: "spare-lan", Up: true}}
	pair := sampleStatus()
	for i := range pair.Links {
		pair.Links[i].Up = false
	}
	pair.Peers = []control.Peer{pair.Peer}
	pair.Peers[0].Links, pair.Peers[0].Cross = pair.Links, across
	many := manyStatus()
	many.Peers[2].State, many.Peers[2].Cross = control.PeerUp, across
	for name, got := range map[string]string{pair.Peer.Name: strings.Join(linkTroubles(pair), "; "), "serv4": strings.Join(linkTroubles(many), "; ")} {
		if !strings.Contains(got, name+" is heard on no link, only across, on spare-lan") || strings.Count(got, "across") != 1 {
			t.Errorf("%s: %s", name, got)
		}
	}
	many.Peers[2].Cross = nil
	if got := strings.Join(linkTroubles(many), "; "); strings.Contains(got, "across") || strings.Contains(got, "serv4") {
		t.Errorf("a dead peer is told of here: %s", got)
	}
}

func TestPingHistogram(t *testing.T) { golden(t, "ping", pingText(samplePing())) }

func TestPingTellsPeersApart(t *testing.T) {
	p := samplePing()
	p.Links[0].Node, p.Links[1].Node = "serv1", "serv3"
	if text := pingText(p); !strings.Contains(text, "crossover to serv1: 1000 sent") || !strings.Contains(text, "lan to serv3: 1000 sent, 1 lost") {
		t.Error(text)
	}
}

func TestShortDurations(t *testing.T) {
	for ns, want := range map[float64]string{0: "0 ns", 999: "999 ns", 1000: "1.00 µs", 9994: "9.99 µs", 9996: "10.0 µs", 5.012e6: "5.01 ms", 99.96e6: "100 ms", 2e9: "2.00 s"} {
		if got := shortNS(ns); got != want {
			t.Errorf("%v ns: %q, want %q", ns, got, want)
		}
	}
}

// sampleRun is a power cut as it comes out of a run.
func sampleRun() observation {
	const t0 = 1_000_000_000
	ev := func(us int64, kind, id, text string) control.Event {
		return control.Event{TimeNS: t0 + us*1e3, Node: lab.Serv2, Kind: kind, Identity: id, Text: text}
	}
	return observation{
		plan: demoPlan{fault: lab.FaultPower, identity: lab.Identities[0], profile: "balanced", count: 1},
		t0:   t0, end: t0 + 1e9, lease: time.Second, before: 1, after: 2,
		client: lab.Summary{Sent: 10041, Answered: 9984, OutageNs: 5_612_000, FromNs: t0 - 88_000, ToNs: t0 + 5_524_000, FromTTL: lab.TTLServ1, ToTTL: lab.TTLServ2,
			Restored: true, Lost: 57, Before: lab.Serv1, After: lab.Serv2, StalledNs: 2_960_000, StallMaxNs: 369_000},
		events: []control.Event{
			ev(-500_000, "peer-up", "", "serv1 is up"), ev(6646, "peer-dead", "", "serv1 is dead"),
			ev(4800, "dead", "", "silent for 5.01 ms"), ev(4801, "flip", "files", "generation 2"), ev(26_736, "services", "files", ""),
		},
		takeover: &control.Takeover{Identity: "files", Generation: 2, DetectUS: 5012,
			Timeline: control.Timeline{From: control.FromEvidence, AtNS: t0 - 212_000, InUS: 5700, OutUS: 5703}},
	}
}

func TestTimelineOfAPowerCut(t *testing.T) {
	r := judge(sampleRun())
	if len(r.Wrong) != 0 || r.DetectUS != 5012 || r.OutageUS != 5612 || r.OwnerChanges != 1 {
		t.Errorf("judged as %+v", r)
	}
	golden(t, "demo-power", resultText(r))
}

func TestARunIsJudgedByItsFault(t *testing.T) {
	for _, tt := range []struct {
		name  string
		set   func(*observation)
		wrong string
	}{
		{"the other node serves after a power cut", func(*observation) {}, ""},
		{"nobody serves", func(o *observation) { o.client.Restored = false }, "had not ended"},
		{"two owners", func(o *observation) { o.client.DualAnswers = 3 }, "two owners"},
		{"nothing may move for a crossover", func(o *observation) { o.plan.fault = lab.FaultCrossover }, "served by serv1 at the end"},
		{"a quick restart moves nothing", func(o *observation) { o.plan.fault, o.plan.restartAfter = lab.FaultDaemonKill, 300*time.Millisecond }, "served by serv1 at the end"},
		{"a late restart moves it", func(o *observation) { o.plan.fault, o.plan.restartAfter = lab.FaultDaemonStop, 2*time.Second }, ""},
		{"there and back is a change", func(o *observation) { o.plan.fault, o.client.After, o.after = lab.FaultCrossover, lab.Serv1, 3 }, "changed its owner"},
		{"at rest nothing moves", func(o *observation) { o.plan.fault, o.client.After, o.after = "", lab.Serv1, 1 }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := sampleRun()
			tt.set(&o)
			got := strings.Join(judge(o).Wrong, "; ")
			if (tt.wrong == "") != (got == "") || !strings.Contains(got, tt.wrong) {
				t.Errorf("wrong is %q, want %q", got, tt.wrong)
			}
		})
	}
}

func TestSeriesOfRuns(t *testing.T) {
	var rs []demoResult
	for _, us := range []int64{9140, 5612, 6120, 7000} {
		rs = append(rs, demoResult{OutageUS: us, Wrong: []string{}})
	}
	want := "\n4 runs: outage median 6.56 ms, least 5.61 ms, most 9.14 ms; answers by two owners 0; runs that went wrong 0\n"
	if got := seriesText(rs); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPictureOfAPowerCut(t *testing.T) {
	const t0 = 1_000_000_000
	s := illStatus()
	s.Links[1].Up = true
	golden(t, "picture", ansi.Strip(picture(scene{
		plan: sampleRun().plan, title: "run 2 of 20", phase: "power at serv1", t0: t0, nowNs: t0 + 4e6,
		nodes:  map[string]nodeView{lab.Serv1: {status: sampleStatus()}, lab.Serv2: {answers: true, status: s}},
		events: sampleRun().events[:4], client: lab.Live{Sent: 3040, Answered: 3000, LastAnswerNs: t0 - 50_000, LastBy: lab.Serv1},
	})))
}

func TestACheckExplainsEachFailure(t *testing.T) {
	for _, file := range []string{"contract", "least", "fence", "etcd", "many"} {
		cfg, err := config.Load(filepath.Join("..", "testdata", "config", "good", file+".yaml"), config.Options{
			Node: "serv1", ReadFile: func(string) ([]byte, error) { return []byte(strings.Repeat("0a", 32)), nil }})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Path = file + ".yaml"
		r := newCheckReport(cfg)
		r.Host = []hostCheck{{Name: "CAP_BPF", OK: true, Detail: "held"}, {Name: "NIC eth1", Detail: "Link not found", Remedy: "correct its name"}}
		golden(t, "check-"+file, checkText(r))
	}
}

func TestACheckSaysWhoSurvivesAPartitionWithAFenceAgent(t *testing.T) {
	fence := func(first, second time.Duration, reach int) *config.Config {
		return &config.Config{
			Nodes: pairOfNodes,
			Arbiter: config.Arbiter{Reach: make([]netip.Addr, reach),
				Fence: &config.Fence{Agent: "fence_ipmilan", Nodes: [2]config.FenceNode{{Delay: first}, {Delay: second}}}},
		}
	}
	for _, tt := range []struct {
		cfg    *config.Config
		want   string
		mutual bool
	}{
		{fence(5*time.Second, 0, 0), "serv2 is switched off, as serv1 has the longer delay", false},
		{fence(0, 5*time.Second, 0), "serv1 is switched off, as serv2 has the longer delay", false},
		{fence(time.Second, time.Second, 0), "each has the other switched off, at the same time", true},
		{fence(5*time.Second, 0, 3), "fewer than 2 of the 3 listed hosts closes its gates and switches nobody off; if both reach them, serv2 is switched off", false},
	} {
		if got := partitionWords(tt.cfg); !strings.Contains(got, tt.want) {
			t.Errorf("%q lacks %q", got, tt.want)
		}
		if got := strings.Join(warnings(tt.cfg), "\n"); strings.Contains(got, "at the same time") != tt.mutual {
			t.Errorf("delays %v: warnings %q", tt.cfg.Arbiter.Fence.Nodes, got)
		}
	}
}

// An agent of the test's own: it knows plug, and says that serv2 is on.
func TestACheckAsksTheFenceAgent(t *testing.T) {
	agent := filepath.Join(t.TempDir(), "fence_own")
	script := `#!/bin/sh
case $(cat) in
*action=metadata*) echo '<resource-agent><parameters><parameter name="plug"/></parameters><actions><action name="off"/><action name="status"/></actions></resource-agent>' ;;
*action=status*plug=7*) exit 0 ;;
*) echo what >&2; exit 1 ;;
esac
`
	if err := os.WriteFile(agent, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{
		Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}},
		Arbiter: config.Arbiter{Fence: &config.Fence{Agent: agent, Timeout: time.Minute, Nodes: [2]config.FenceNode{
			{Params: []config.FenceParam{{Name: "plug", Value: "6"}, {Name: "plugg", Value: "6"}}}, {Params: []config.FenceParam{{Name: "plug", Value: "7"}}}}}},
	}
	got := fenceChecks(t.Context(), cfg)
	if len(got) != 3 || got[0].OK || !strings.Contains(got[0].Detail, "knows no parameter plugg") || !got[1].OK {
		t.Fatalf("%+v", got)
	}
	if !got[2].OK || got[2].Name != "power of serv2" || !strings.Contains(got[2].Detail, "says that it is on") {
		t.Errorf("%+v", got[2])
	}
	cfg.Self = 1 // and serv1, whose plug is 6, it does not know
	if got := fenceChecks(t.Context(), cfg); got[2].OK || !strings.Contains(got[2].Detail, "exit status 1: what") {
		t.Errorf("%+v", got[2])
	}
}

func TestACheckSaysWhoCanPace(t *testing.T) {
	none := errors.New("this kernel has neither fq nor tbf")
	for _, tt := range []struct {
		want, mode string
		err        error
		ok         bool
		detail     string
	}{
		{"auto", "fq", nil, true, "the kernel can, by fq"},
		{"auto", "", none, true, "a thread of the daemon will"},
		{"kernel", "tbf", nil, true, "the kernel can, by tbf"},
		{"kernel", "", none, false, "neither fq nor tbf"},
		{"kernel", "", fmt.Errorf("make a network namespace: %w", unix.EPERM), true, "needs CAP_SYS_ADMIN"},
		{"thread", "", nil, true, "a thread of the daemon;"},
	} {
		if h := paceCheck(tt.want, tt.mode, tt.err); h.OK != tt.ok || !strings.Contains(h.Detail, tt.detail) || h.OK != (h.Remedy == "") {
			t.Errorf("%s, %q, %v: %+v", tt.want, tt.mode, tt.err, h)
		}
	}
}

func TestACheckWarnsOfWhatMaySurprise(t *testing.T) {
	cfg := &config.Config{Nodes: append(pairOfNodes, config.Node{Name: "serv3"}), Arbiter: config.Arbiter{Etcd: &config.Etcd{Endpoints: []string{"http://192.0.2.9:2379"}}},
		Identities: []config.Identity{{Name: "files", StagingAhead: true, Prefer: []int{0, 1}}, {Name: "mail", Prefer: []int{0, 1}}}}
	text := strings.Join(warnings(cfg), "\n")
	if !strings.Contains(text, "serv3 is neither home to an identity nor in any prefer") || strings.Contains(text, "serv2 is neither") ||
		!strings.Contains(text, "at home on serv1: the other nodes only stand by") {
		t.Error(text)
	}
	if !strings.Contains(text, "files is staged ahead: "+stagingAheadCaveat) || strings.Contains(text, "mail is staged") {
		t.Error(text)
	}
}

func TestACheckShowsARightThatWouldNotEnd(t *testing.T) {
	cfg := &config.Config{Arbiter: config.Arbiter{Reach: make([]netip.Addr, 3)}, Timing: config.Timing{DeadAfter: 5 * time.Millisecond, ServeFor: 4490 * time.Microsecond, Linger: 500 * time.Microsecond, SupervisorLost: time.Second}}
	var b strings.Builder
	timingText(&b, newCheckTiming(cfg))
	if want := "L(1+ρ)+ε < Δ(1−ρ), Δ being dead_after: 4.99449ms < 4.995ms"; !strings.Contains(b.String(), want) {
		t.Errorf("lacks %q:\n%s", want, b.String())
	}
	cfg.Timing.ServeFor += 10 * time.Microsecond
	b.Reset()
	timingText(&b, newCheckTiming(cfg))
	if want := "5.0045ms ≥ 4.995ms"; !strings.Contains(b.String(), want) {
		t.Errorf("lacks %q:\n%s", want, b.String())
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	app := newApp(Env{Stdout: os.Stdout, Stderr: os.Stderr})
	for in, want := range map[string]string{
		"move files serv2 --force":         "move --force files serv2",
		"status --json --run-dir /r":       "--run-dir /r status --json",
		"ping --for 10s --run-dir=/r":      "--run-dir=/r ping --for 10s",
		"move -- --force":                  "move -- --force",
		"--node a check --config-only":     "--node a check --config-only",
		"events --bogus":                   "events --bogus",
		"--help":                           "--help",
		"demo --fault power --count 2 -h":  "demo --fault power --count 2 -h",
		"move files --timeout 3s --node b": "--node b move --timeout 3s files",
	} {
		if got := strings.Join(arrange(app, strings.Fields(in)), " "); got != want {
			t.Errorf("%q is arranged as %q, want %q", in, got, want)
		}
	}
}

func TestAClusterIsReadyWhenEachCoversTheOther(t *testing.T) {
	serv2 := sampleStatus()
	serv1 := sampleStatus()
	serv1.Node = lab.Serv1
	serv1.Identities[0].Gate, serv1.Identities[0].Armed = "open", false
	serv1.Identities[1].Gate, serv1.Identities[1].Armed = "closed", true
	nodes := map[string]nodeView{lab.Serv1: {true, serv1}, lab.Serv2: {true, serv2}}
	if missing := notReady(nodes); missing != "" {
		t.Errorf("a ready cluster lacks: %s", missing)
	}
	nodes[lab.Serv2] = nodeView{true, illStatus()}
	if missing := notReady(nodes); missing != "serv2 sees its peer dead" {
		t.Errorf("missing is %q", missing)
	}
}
