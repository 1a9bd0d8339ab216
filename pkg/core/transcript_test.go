// SPDX-License-Identifier: Apache-2.0

package core

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden transcripts")

// A transcript is prose that runs: lines that start at the margin are the
// configuration, events and comments; the machine's actions follow, indented, and
// are what -update rewrites.
//
//	node serv1 serv2 self=serv1
//	identity files home=serv1 samba failback=auto after=5s staging=ahead
//	saved files=6 standby
//	demand-if-lost
//	fence delay=5s
//	start
//	+100ms see peer=up files=ready@5/owner@5   only what changes; own/peer word
//	see key:files=6/6                          generation held in etcd/highest stored there
//	see key:files=0/6/elsewhere                another node holds it
//
// Among many, what is of a peer has its name:
//
//	node serv1 serv2 serv3 self=serv1
//	identity files home=serv1 prefer=serv1,serv3
//	see serv2=up serv2:boot=7 files=ready@5 files:serv3=owner|yield|to:serv1@5 granted:files=yes
//	link serv2 crossover down
//	see unsynced:files=yes                     its data is not whole here
//	see unasked:files=yes                      as far as is known: the peer has not said whether its is newer
//	see peer-runs=files,mail                   whose services run there; none
//	ended files                                by the guard; refused: a service was not let start again
//	refuse start files: not permitted
//	ok|fail copy|persist|fence|swap|carry|add|remove|start|stop IDENTITY
//	tick, cmd move files serv2, link crossover down, service files samba failed: exit status 1
//	@12.5 tick                     at a time, instead of after the line above
func TestTranscripts(t *testing.T) {
	eachTranscript(t, func(t *testing.T, file, in string) {
		out := newTranscript(t).run(in)
		if *update {
			if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if out != in {
			t.Errorf("%s differs; got:\n%s", file, out)
		}
	})
}

func eachTranscript(t *testing.T, f func(t *testing.T, file, in string)) {
	files, err := filepath.Glob("../../testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("find transcripts: %v, %d found", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f(t, file, string(in))
		})
	}
}

// What a replay prints can be kept as a test: it runs, and comes out as it went in.
func TestAWrittenTranscriptRunsAgain(t *testing.T) {
	eachTranscript(t, func(t *testing.T, _, in string) {
		x := newTranscript(t)
		x.run(in)
		written := x.again.String()
		if out := newTranscript(t).run(written); out != written {
			t.Errorf("written:\n%s\nrun again:\n%s", written, out)
		}
		if got, want := actions(written), actions(in); got != want {
			t.Errorf("written:\n%s\nbut these are the actions:\n%s", written, want)
		}
	})
}

// actions are the indented lines.
func actions(transcript string) (s string) {
	for line := range strings.Lines(transcript) {
		if strings.HasPrefix(line, "\t") {
			s += line
		}
	}
	return s
}

type transcript struct {
	t       *testing.T
	line    string
	out     strings.Builder
	cfg     Config
	saved   Saved
	m       *Machine
	now     time.Duration
	obs     Observed
	pending map[string]Action // by "verb identity"
	wanted  map[int]uint64    // generations at which keys are wanted
	cmd     uint64
	text    *Transcript
	again   strings.Builder // the transcript as a Transcript writes it
}

func newTranscript(t *testing.T) *transcript {
	return &transcript{t: t, saved: Saved{}.clone(), now: time.Second, pending: map[string]Action{}, wanted: map[int]uint64{}}
}

func (x *transcript) run(in string) string {
	out := &x.out
	for line := range strings.Lines(in) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "\t") {
			continue
		}
		out.WriteString(line + "\n")
		x.line = line
		if f := strings.Fields(line); len(f) > 0 && f[0] != "#" {
			for _, a := range x.do(f) {
				line := "\t" + x.text.Action(a) + "\n"
				out.WriteString(line)
				x.again.WriteString(line)
			}
		}
	}
	return out.String()
}

func (x *transcript) fail(what string) {
	x.t.Helper()
	x.t.Fatalf("transcript line %q: %s; so far:\n%s", x.line, what, x.out.String())
}

func (x *transcript) do(f []string) []Action {
	if strings.HasPrefix(f[0], "+") {
		x.now += time.Duration(x.duration(f[0][1:]))
		f = f[1:]
	}
	if strings.HasPrefix(f[0], "@") {
		d, err := time.ParseDuration(f[0][1:] + "s")
		if err != nil {
			x.fail(err.Error())
		}
		x.now = d
		f = f[1:]
	}
	switch f[0] {
	case "node":
		x.cfg.Nodes = f[1 : len(f)-1]
		x.cfg.Self = x.node(strings.TrimPrefix(f[len(f)-1], "self="))
		x.obs = unseen(len(x.cfg.Nodes), 0)
		x.obs.Peers[x.cfg.Self] = PeerView{}
	case "identity":
		x.identity(f[1:])
	case "concurrent":
		x.cfg.Concurrent = f[1:]
	case "vital":
		x.cfg.Vital = f[1:]
	case "hold":
		x.cfg.Hold, x.cfg.UntilSynced = true, len(f) > 1 && f[1] == "until-synced"
	case "demand-if-lost":
		x.cfg.DemandIfLost = true
	case "end-after":
		x.cfg.EndAfter = x.duration(f[1])
	case "ended":
		return x.step(ServicesEnded{Identity: x.id(f[1]), Refused: len(f) > 2 && f[2] == "refused"})
	case "etcd":
		x.cfg.Etcd = true
	case "fence":
		x.cfg.Fence = true
		if len(f) > 1 {
			x.cfg.FenceDelay = x.duration(strings.TrimPrefix(f[1], "delay="))
		}
	case "saved": // and then the node booted
		x.save(f[1:], true)
	case "promised": // by a daemon before this one
		x.save(f[1:], false)
	case "start":
		x.m, x.text = New(x.cfg, x.saved), NewTranscript(x.cfg)
		x.again.WriteString(strings.Join(x.text.Head(x.saved), "\n") + "\n")
		return x.step(Started{})
	case "see":
		return x.step(x.see(f[1:]))
	case "tick":
		return x.step(Tick{})
	case "ok", "fail", "refuse":
		return x.answer(f[0], strings.Join(f[1:], " "))
	case "link":
		peer := 1 - x.cfg.Self
		if x.cfg.many() {
			peer, f = x.node(f[1]), f[1:]
		}
		return x.step(LinkChanged{Peer: peer, Link: f[1], Up: f[2] == "up"})
	case "service":
		i := -1
		if f[1] != "node" {
			i = x.id(f[1])
		}
		why := strings.Join(f[4:], " ")
		if why == "" {
			why = "exit status 1"
		}
		return x.step(ServiceState{Identity: i, Service: f[2], Healthy: f[3] == "healthy", Expired: f[3] == "expired", Err: why})
	case "cmd":
		return x.step(x.command(f[1:]))
	default:
		x.fail("unknown event")
	}
	return nil
}

func (x *transcript) step(ev Event) []Action {
	x.again.WriteString(x.text.Event(int64(x.now), ev) + "\n")
	out := x.m.Step(int64(x.now), ev)
	for _, a := range out {
		if op, what := x.cfg.asked(a); op != 0 {
			x.pending[what] = a
		}
		switch a := a.(type) {
		case Win:
			x.wanted[a.Identity] = a.Generation
		case GiveUp:
			delete(x.wanted, a.Identity)
		}
	}
	return out
}

func (x *transcript) answer(how, what string) []Action {
	ok := how == "ok"
	what, why, given := strings.Cut(what, ": ")
	if !given {
		why = "it did not work"
	}
	a, found := x.pending[what]
	if !found {
		x.fail("nothing such is in flight")
	}
	delete(x.pending, what)
	if a, isSwap := a.(Swap); isSwap {
		if ok {
			x.obs.Local[a.Identity] = a.New
		}
		return x.step(Swapped{Op: a.Op, Identity: a.Identity, OK: ok, Current: x.obs.Local[a.Identity]})
	}
	op, _ := x.cfg.asked(a)
	if ok {
		return x.step(Done{Op: op})
	}
	return x.step(Failed{Op: op, Err: why, Refused: how == "refuse"})
}

func (x *transcript) node(name string) int {
	i := slices.Index(x.cfg.Nodes, name)
	if i < 0 {
		x.fail("no such node: " + name)
	}
	return i
}

func (x *transcript) id(name string) int {
	i := slices.IndexFunc(x.cfg.Identities, func(c IdentityConfig) bool { return c.Name == name })
	if i < 0 {
		x.fail("no such identity: " + name)
	}
	return i
}

func (x *transcript) identity(f []string) {
	c := IdentityConfig{Name: f[0], Failback: "manual"}
	for _, a := range f[1:] {
		k, v, isOption := strings.Cut(a, "=")
		switch {
		case !isOption:
			c.Exclusive = append(c.Exclusive, a)
		case k == "home":
			c.Home = x.node(v)
		case k == "prefer":
			for name := range strings.SplitSeq(v, ",") {
				c.Prefer = append(c.Prefer, x.node(name))
			}
		case k == "failback":
			c.Failback = v
		case k == "after":
			c.FailbackAfter = x.duration(v)
		case k == "staging":
			c.StagingAhead = v == "ahead"
		case k == "carrier":
			c.Aside = v == "aside"
		case k == "silence":
			c.AfterSilence = x.duration(v)
		case k == "runs":
			c.Runs = v == "yes"
		case k == "data":
			c.Mirrored = v == "mirrored"
		default:
			x.fail("unknown option")
		}
	}
	x.cfg.Identities = append(x.cfg.Identities, c)
	x.obs.Local = append(x.obs.Local, 0)
	for p := range x.obs.Peers {
		if p != x.cfg.Self {
			x.obs.Peers[p].Words = append(x.obs.Peers[p].Words, 0)
		}
	}
	x.obs.Granted = append(x.obs.Granted, false)
	x.obs.Keys = append(x.obs.Keys, Key{})
	x.obs.Unsynced, x.obs.Unasked = append(x.obs.Unsynced, false), append(x.obs.Unasked, false)
}

func (x *transcript) save(f []string, booted bool) {
	for _, a := range f {
		switch k, v, _ := strings.Cut(a, "="); k {
		case "standby":
			x.saved.Standby = true
		case "frozen":
			x.saved.Frozen = true
		case "held":
			x.saved.Held = true
		default:
			x.saved.Generations[k] = x.number(v)
			if booted {
				x.cfg.Identities[x.id(k)].Floor = x.number(v)
			}
		}
	}
}

func (x *transcript) duration(s string) int64 {
	d, err := time.ParseDuration(s)
	if err != nil {
		x.fail(err.Error())
	}
	return int64(d)
}

func (x *transcript) number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 48)
	if err != nil {
		x.fail(err.Error())
	}
	return n
}

var wordFlags = map[string]Word{"owner": Owner, "yield": Yield, "ready": Ready, "want": Want, "staged": Staged, "demand": Demand, "plain": 0}

func (x *transcript) word(s string) Word {
	flags, gen, _ := strings.Cut(s, "@")
	var w Word
	for f := range strings.SplitSeq(flags, "|") {
		if to, isTo := strings.CutPrefix(f, "to:"); isTo {
			w |= ToNode(x.node(to))
			continue
		}
		b, ok := wordFlags[f]
		if !ok {
			x.fail("no such flag: " + f)
		}
		w |= b
	}
	return MakeWord(w, x.number(gen))
}

// wordOf refuses what no kernel of that node would hold.
func (x *transcript) wordOf(node int, s string) Word {
	w := x.word(s)
	if w.Has(Owner) && w.Gen()%uint64(len(x.cfg.Nodes)) != uint64(node) {
		x.fail(fmt.Sprintf("%s cannot own generation %d", x.cfg.Nodes[node], w.Gen()))
	}
	return w
}

// see changes what was seen last.
func (x *transcript) see(f []string) Observed {
	o := &x.obs
	for _, a := range f {
		k, v, _ := strings.Cut(a, "=")
		name, part, _ := strings.Cut(k, ":")
		switch peer := slices.Index(x.cfg.Nodes, name); {
		case x.cfg.many() && peer >= 0:
			x.seePeer(&o.Peers[peer], part, v)
		case !x.cfg.many() && x.seePeer(&o.Peers[1-x.cfg.Self], pairKey(k), v):
		case k == "isolated":
			o.Isolated = v == "yes"
		case k == "fenced":
			o.Fenced = v == "yes"
		case k == "barred":
			o.Barred = v == "yes"
		case k == "lan":
			x.nic(&o.MyLan.Lan, v)
		case k == "spare":
			x.nic(&o.MyLan.Spare, v)
		case k == "granted":
			for i := range o.Granted {
				o.Granted[i] = v == "yes"
			}
		case name == "granted":
			o.Granted[x.id(part)] = v == "yes"
		case name == "unsynced":
			o.Unsynced[x.id(part)] = v == "yes"
		case name == "unasked":
			o.Unasked[x.id(part)] = v == "yes"
		case name == "key":
			x.key(x.id(part), v)
		case part != "":
			p := x.node(part)
			o.Peers[p].Words[x.id(name)] = x.wordOf(p, v)
		default:
			x.words(x.id(k), v)
		}
	}
	return o.clone()
}

// pairKey is what a key of a pair is of a peer.
func pairKey(k string) string {
	switch k {
	case "peer":
		return ""
	case "boot", "supervisor":
		return k
	}
	if part, found := strings.CutPrefix(k, "peer-"); found {
		return part
	}
	return "not of a peer"
}

// seePeer reports whether that is something of a peer's.
func (x *transcript) seePeer(p *PeerView, what, v string) bool {
	switch what {
	case "":
		p.State = PeerState(slices.Index(peerStateNames[:], v))
	case "boot":
		p.Boot = x.number(v)
	case "supervisor":
		p.SupervisorOK = v == "yes"
	case "standby":
		p.Standby = v == "yes"
	case "frozen":
		p.Frozen = v == "yes"
	case "runs":
		p.Runs = make([]bool, len(x.cfg.Identities))
		for i, c := range x.cfg.Identities {
			p.Runs[i] = slices.Contains(strings.Split(v, ","), c.Name)
		}
	case "lan":
		x.nic(&p.Lan.Lan, v)
	case "spare":
		x.nic(&p.Lan.Spare, v)
	default:
		return false
	}
	return true
}

// words takes this node's word, and in a pair the peer's after a slash.
func (x *transcript) words(i int, v string) {
	mine, theirs, both := strings.Cut(v, "/")
	if mine != "" {
		was, w := x.obs.Local[i], x.wordOf(x.cfg.Self, mine)
		if x.cfg.many() && x.m.seen && w.Has(Owner) && !was.Has(Owner) && x.obs.Keys[i].Held != w.Gen() {
			x.fail("its kernel takes nothing without the key")
		}
		x.obs.Local[i] = w
	}
	if both {
		p := 1 - x.cfg.Self
		x.obs.Peers[p].Words[i] = x.wordOf(p, theirs)
	}
}

func (x *transcript) key(i int, v string) {
	f := strings.Split(v, "/")
	k := Key{Held: x.number(f[0]), Stored: x.number(f[1]), Elsewhere: len(f) > 2}
	if k.Held != 0 && k.Held != x.wanted[i] {
		x.fail(fmt.Sprintf("a key that is wanted at generation %d is not won there", x.wanted[i]))
	}
	x.obs.Keys[i] = k
}

// nic takes up, down, none or reached/majority.
func (x *transcript) nic(n *NIC, v string) {
	reach, majority, counted := strings.Cut(v, "/")
	switch {
	case counted:
		*n = NIC{Present: true, Carrier: true, Reach: int(x.number(reach)), Majority: int(x.number(majority))}
	default:
		*n = NIC{Present: v != "none", Carrier: v == "up"}
	}
}

func (x *transcript) command(f []string) Event {
	x.cmd++
	on := len(f) > 1 && f[1] == "on"
	switch f[0] {
	case "move":
		to := -1
		if len(f) > 2 && f[2] != "force" {
			to = x.node(f[2])
		}
		return CmdMove{Op: x.cmd, Identity: x.id(f[1]), To: to, Force: f[len(f)-1] == "force"}
	case "giveback":
		return CmdGiveback{Op: x.cmd}
	case "standby":
		return CmdStandby{Op: x.cmd, On: on}
	case "freeze":
		return CmdFreeze{Op: x.cmd, On: on}
	case "leave":
		return CmdLeave{Op: x.cmd}
	}
	x.fail("no such command")
	return nil
}
