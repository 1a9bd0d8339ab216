// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "rewrite testdata/config/bad/*.err")

const testdata = "../../testdata/config"

// secretLine is what the tests' secret files hold.
var secretLine = strings.Repeat("0123456789abcdef", 4)

func options() Options {
	return Options{Hostname: "serv1", ReadFile: func(name string) ([]byte, error) {
		if filepath.Base(name) != "secret" {
			return nil, fs.ErrNotExist
		}
		return []byte(secretLine + "\n"), nil
	}}
}

func files(t testing.TB, kind string) []string {
	names, err := filepath.Glob(filepath.Join(testdata, kind, "*.yaml"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s configurations in %s: %v", kind, testdata, err)
	}
	return names
}

func readFile(t testing.TB, name string) []byte {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func good(t *testing.T, name string) *Config {
	t.Helper()
	c, err := Load(filepath.Join(testdata, "good", name), options())
	if err != nil {
		t.Fatalf("good configuration refused:\n%v", err)
	}
	return c
}

func TestGoodConfigurationsAreTaken(t *testing.T) {
	for _, name := range files(t, "good") {
		t.Run(filepath.Base(name), func(t *testing.T) { good(t, filepath.Base(name)) })
	}
}

// located is the form of every message: place, what is wrong, what to write.
var located = regexp.MustCompile(`^[^:\n]+:\d+:\d+: .+; .+`)

func TestBadConfigurationsAreRefusedWithTheirGoldenError(t *testing.T) {
	for _, name := range files(t, "bad") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			o := options()
			o.Hostname = "elsewhere"
			c, err := Parse(filepath.Base(name), readFile(t, name), o)
			if err == nil {
				t.Fatalf("taken as %+v", c)
			}
			if c != nil {
				t.Errorf("an error, and a configuration too")
			}
			var e *Error
			if !errors.As(err, &e) || !located.MatchString(err.Error()) {
				t.Errorf("not `path:line:col: what is wrong; what to write`: %v", err)
			}
			golden := strings.TrimSuffix(name, ".yaml") + ".err"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(readFile(t, golden)), err.Error()+"\n"); diff != "" {
				t.Errorf("error differs from %s (-golden +now):\n%s", golden, diff)
			}
		})
	}
}

func TestEveryGoldenErrorHasItsConfiguration(t *testing.T) {
	names, _ := filepath.Glob(filepath.Join(testdata, "bad", "*.err"))
	for _, name := range names {
		if _, err := os.Stat(strings.TrimSuffix(name, ".err") + ".yaml"); err != nil {
			t.Error(err)
		}
	}
}

func TestTimingsAreDerived(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	for _, tt := range []struct {
		timing string
		want   Timing
	}{
		{"{}", timing("balanced", ms, 5*ms, 3*ms, 3, 4489*us, 500*us)},
		{"{profile: fast}", timing("fast", 250*us, ms, 500*us, 3, 897*us, 100*us)},
		{"{profile: cautious}", timing("cautious", 10*ms, 100*ms, 80*ms, 3, 98800*us, ms)},
		{"{probe: 1ms, dead_after: 3ms}", timing("custom", ms, 3*ms, ms, 2, 2693*us, 300*us)},
		{"{probe: 1ms, dead_after: 3500us}", timing("custom", ms, 3500*us, 1500*us, 2, 3142*us, 350*us)},
		// The listed hosts must have answered before the right to serve ends: suspect earlier than dead_after less two probes.
		{"{probe: 1ms, dead_after: 50ms}", timing("custom", ms, 50*ms, 47650*us, 3, 48900*us, ms)},
		{"{linger: 1ms}", timing("balanced", ms, 5*ms, 2740*us, 3, 3990*us, ms)},
		{"{probe: 1s, dead_after: 4s}", changed(timing("custom", time.Second, 4*time.Second, 2*time.Second, 3, 3991007*us, ms), func(t *Timing) {
			t.SupervisorLease, t.SupervisorLost, t.BootHold = 40*time.Second, 30*time.Second, 80*time.Second
		})},
		{"{supervisor_lease: 5s, solo_without_supervisor: close, peer_supervisor_lost: wait, pacer: thread}",
			changed(timing("balanced", ms, 5*ms, 3*ms, 3, 4489*us, 500*us), func(t *Timing) {
				t.SupervisorLease, t.SupervisorLost, t.BootHold = 5*time.Second, 3750*ms, 10*time.Second
				t.SoloKeep, t.DemandIfLost, t.Pacer = false, false, PacerThread
			})},
		{"{updelay: 30s}", changed(timing("balanced", ms, 5*ms, 3*ms, 3, 4489*us, 500*us), func(t *Timing) { t.UpDelay = 30 * time.Second })},
		{"{end_services_after: 2s, await_services: 1h}", changed(timing("balanced", ms, 5*ms, 3*ms, 3, 4489*us, 500*us), func(t *Timing) {
			t.EndServices, t.AwaitServices = 2*time.Second, time.Hour
		})},
		{"{profile: balanced, probe: 1000us, boot_hold: 600ms}",
			changed(timing("balanced", ms, 5*ms, 3*ms, 3, 4489*us, 500*us), func(t *Timing) { t.BootHold = 600 * ms })},
	} {
		t.Run(tt.timing, func(t *testing.T) {
			src := string(readFile(t, filepath.Join(testdata, "good", "least.yaml"))) + "timing: " + tt.timing + "\n"
			c, err := Parse("t.yaml", []byte(src), options())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, c.Timing); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if !c.Timing.RightEnds() {
				t.Errorf("the right to serve, %s, may outlast dead_after", c.Timing.ServeFor)
			}
			longer := c.Timing
			longer.ServeFor += 3 * us
			if longer.RightEnds() {
				t.Errorf("the right to serve, %s, could be longer", c.Timing.ServeFor)
			}
		})
	}
}

// timing is what a file gives that says nothing of the rest.
func timing(profile string, probe, dead, suspect time.Duration, confirm int, serve, linger time.Duration) Timing {
	return Timing{
		Profile: profile, Probe: probe, DeadAfter: dead, SuspectAfter: suspect, ConfirmProbes: confirm,
		SupervisorLease: time.Second, BootHold: 3 * time.Second, SoloKeep: true, ServeFor: serve, Linger: linger,
		Pacer: PacerAuto, SupervisorLost: 750 * time.Millisecond, DemandIfLost: true,
		EndServices: 500 * time.Millisecond, UpDelay: 10 * time.Second,
	}
}

func changed(t Timing, change func(*Timing)) Timing {
	change(&t)
	return t
}

func TestTheContractsExampleMeansWhatItSays(t *testing.T) {
	c := good(t, "contract.yaml")
	if c.Self != 0 || c.Many() || c.Peer() != 1 || c.Nodes[c.Self].Name != "serv1" {
		t.Errorf("self %d, peer %d", c.Self, c.Peer())
	}
	if got := fmt.Sprint(c.Identities[0].Addresses); got != "[192.0.2.21/24 2001:db8::21/64 192.0.2.96-192.0.2.159/24]" {
		t.Errorf("addresses %s", got)
	}
	if got := c.Identities[0].Count(); got != 66 {
		t.Errorf("%d addresses, want 66", got)
	}
	if c.Identities[1].Name != "mail" || c.Identities[1].Home != 1 {
		t.Errorf("second identity %+v", c.Identities[1])
	}
	want := Service{
		Name: "samba", Start: "systemctl start smbd", Stop: "systemctl stop smbd", Check: "smbclient -N -L 127.0.0.1",
		Every: 2 * time.Second, Rise: 2, Fall: 3,
		Timeout: ServiceTimeout{20 * time.Second, 20 * time.Second, 5 * time.Second},
		Restart: ServiceRestart{3, time.Minute}, After: []string{"dns"},
	}
	if diff := cmp.Diff(want, c.Services[2], cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("samba -want +got:\n%s", diff)
	}
	if s := c.Services[0]; s.Name != "dns" || !s.Concurrent || s.Start != "systemctl start named\nrndc reload\n" {
		t.Errorf("dns %+v", s)
	}
}

func TestWhoTakesAnIdentityIsAnOrderOfCandidates(t *testing.T) {
	for file, want := range map[string]map[string][]int{
		"many.yaml":        {"files": {0, 3, 1}, "mail": {1, 0, 2, 3}, "web": {2, 0}},
		"pair-prefer.yaml": {"one": {1, 0}},
		"contract.yaml":    {"files": {0, 1}, "mail": {1, 0}},
		"sixteen.yaml":     {"one": {15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, "two": {0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}},
	} {
		c := good(t, file)
		for _, id := range c.Identities {
			if diff := cmp.Diff(want[id.Name], id.Prefer); diff != "" {
				t.Errorf("%s of %s: -want +got:\n%s", id.Name, file, diff)
			}
			for node := range c.Nodes {
				if got := id.Candidate(node); got != slices.Contains(want[id.Name], node) {
					t.Errorf("%s of %s: node %d is a candidate: %v", id.Name, file, node, got)
				}
			}
		}
	}
}

func TestNodesAreNumberedInTheOrderOfTheirNames(t *testing.T) {
	c := good(t, "many.yaml")
	if got := []string{c.Nodes[0].Name, c.Nodes[1].Name, c.Nodes[2].Name, c.Nodes[3].Name}; !slices.Equal(got, []string{"serv1", "serv2", "serv3", "serv4"}) {
		t.Errorf("nodes %q", got)
	}
	if !c.Many() || c.Self != 2 || !slices.Equal(c.Others(), []int{0, 1, 3}) {
		t.Errorf("this node is %d, the others %v", c.Self, c.Others())
	}
	if c.Timing.SoloKeep {
		t.Error("without its supervisor a node would keep what another one can take")
	}
	o := options()
	o.Hostname = "serv4.example.net"
	auto, err := Parse("t.yaml", bytes.Replace(readFile(t, filepath.Join(testdata, "good", "many.yaml")), []byte("node: serv3"), []byte("node: auto"), 1), o)
	if err != nil || auto.Self != 3 || auto.Digest != c.Digest {
		t.Errorf("by its hostname it is %+v, %v", auto, err)
	}
}

// Nodes of two versions must agree while a pair is upgraded, one after the other: whoever changes
// these numbers says so in the changelog.
func TestTheDigestOfAPairIsTheOneOfEarlierVersions(t *testing.T) {
	for file, want := range map[string]uint32{"contract.yaml": 0x974ffd41, "etcd.yaml": 0xc26d64dc, "everything.yaml": 0x4d7bc63b} {
		c := good(t, file)
		c.Mirrors, c.Identities[0].Mirror = nil, nil // of which earlier versions knew nothing
		if got, err := digest(*c); got != want {
			t.Errorf("%s: digest %08x, it was %08x (%v)", file, got, want, err)
		}
	}
}

func TestTheNodeIsFoundByOverrideFileAndHostname(t *testing.T) {
	src := readFile(t, filepath.Join(testdata, "good", "least.yaml"))
	for _, tt := range []struct {
		line, node, host string
		want             int
	}{
		{"", "", "serv2", 1},
		{"", "", "serv2.example.net", 1},
		{"node: auto\n", "", "serv1", 0},
		{"node: serv2\n", "", "serv1", 1},
		{"node: serv2\n", "serv1", "serv2", 0},
		{"node: serv1\n", "auto", "serv2", 1},
		{"", "serv3", "serv1", -1},
		{"", "", "", -1},
	} {
		o := options()
		o.Node, o.Hostname = tt.node, tt.host
		c, err := Parse("t.yaml", append([]byte(tt.line), src...), o)
		switch {
		case tt.want < 0 && err == nil:
			t.Errorf("%+v: taken as %d", tt, c.Self)
		case tt.want >= 0 && (err != nil || c.Self != tt.want):
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestTheDigestCoversWhatBothNodesMustAgreeOn(t *testing.T) {
	src := string(readFile(t, filepath.Join(testdata, "good", "contract.yaml")))
	parse := func(src string, node string) uint32 {
		o := options()
		o.Node = node
		c, err := Parse("t.yaml", []byte(src), o)
		if err != nil {
			t.Fatal(err)
		}
		return c.Digest
	}
	base := parse(src, "serv1")
	for _, same := range [][2]string{{"lj64 ", "lj64  "}, {"on-event", "other"}, {":9640", ":9641"}, {"1s", "1000ms"}, {"failback: manual", "failback: manual\n    tickle: true"}} {
		if parse(strings.Replace(src, same[0], same[1], 1), "serv2") != base {
			t.Errorf("%q → %q changed the digest", same[0], same[1])
		}
	}
	many := string(readFile(t, filepath.Join(testdata, "good", "many.yaml")))
	if parse(strings.Replace(many, "[serv4, serv2]", "[serv2, serv4]", 1), "serv1") == parse(many, "serv1") {
		t.Error("another order of who takes an identity kept the digest")
	}
	for _, other := range [][2]string{{"lj64", "lj65"}, {".22/24", ".23/24"}, {"supervisor_lease: 1s", "supervisor_lease: 2s"}, {"eth2", "eth3"}, {"rise: 2", "rise: 1"}, {"failback: manual", "failback: manual\n    tickle: false"}} {
		if parse(strings.Replace(src, other[0], other[1], 1), "serv1") == base {
			t.Errorf("%q → %q kept the digest", other[0], other[1])
		}
	}
}

func TestAutomaticMACsAreLocalUnicastAndStable(t *testing.T) {
	a, b := autoMAC("lj64", "files"), autoMAC("lj64", "mail")
	if a == b || a == autoMAC("lj65", "files") || a != autoMAC("lj64", "files") {
		t.Errorf("%x %x", a, b)
	}
	if a[0]&3 != 2 || b[0]&3 != 2 {
		t.Errorf("%x or %x is not locally administered unicast", a, b)
	}
}

func TestDeepAndLargeFilesAreRefusedInTime(t *testing.T) {
	for _, unit := range []string{"[", "{", "- ", "a: ", "? ", "{a: ", "&a ", "*a ", "!a ", "\"", "'", "| ", "a: [\n", "\n", "\t", "a", "#", "---\n", "a: b\n", "- a\n", "a:\n ", "[]"} {
		src := strings.Repeat(unit, maxFile/len(unit))
		start := time.Now()
		if _, err := Parse("deep.yaml", []byte(src), options()); err == nil {
			t.Errorf("%d × %q taken", maxFile/len(unit), unit)
		}
		if d := time.Since(start); d > time.Minute { // what is not linear takes hours
			t.Errorf("%q took %s", unit, d)
		}
	}
}
