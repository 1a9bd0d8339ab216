// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"
)

// Transcript writes what a machine is told and what it decides as text, in the form of
// testdata/transcripts: a line for each input, and below it, indented, one for each action. Of
// an Observed only what is new is written.
type Transcript struct {
	cfg     Config
	seen    Observed
	pending map[uint64]string // what an Op does, until its result
}

// NewTranscript begins the transcript of a machine of cfg that starts.
func NewTranscript(cfg Config) *Transcript {
	return &Transcript{cfg: cfg, seen: unseen(len(cfg.Nodes), len(cfg.Identities)), pending: map[uint64]string{}}
}

// ResumeTranscript begins the transcript of a machine that goes on from a state.
func ResumeTranscript(cfg Config, s State) *Transcript {
	x := NewTranscript(cfg)
	if s.Seen {
		x.seen = s.Observed.clone()
	}
	turning := func(a ActuatorState, on, off, what string) {
		x.pending[a.Op] = pick(actState(a.State) == actTurningOn, on, off) + " " + what
	}
	x.pending[s.Persist.Op] = "persist"
	x.pending[s.Fence.Op] = "fence"
	turning(s.Concurrent, "start", "stop", "concurrent")
	for i, id := range s.Identities {
		x.pending[id.Swap.Op] = "swap " + cfg.name(i)
		x.pending[id.Carry.Op] = "carry " + cfg.name(i)
		turning(id.Addr, "add", "remove", cfg.name(i))
		turning(id.Svc, "start", "stop", cfg.name(i))
		x.pending[id.Handover.Copy] = "copy " + cfg.name(i)
	}
	delete(x.pending, 0) // nothing is in flight
	return x
}

// unseen is what the first Observed of a transcript is compared with.
func unseen(nodes, identities int) Observed {
	ok := LanView{Lan: NIC{Present: true, Carrier: true}, Spare: NIC{Present: true, Carrier: true}}
	o := Observed{MyLan: ok, Local: make([]Word, identities), Granted: make([]bool, identities), Keys: make([]Key, identities)}
	for range nodes {
		o.Peers = append(o.Peers, PeerView{SupervisorOK: true, Lan: ok, Words: make([]Word, identities)})
	}
	return o
}

// Head is the configuration and what was on the disk.
func (x *Transcript) Head(saved Saved) []string {
	c := x.cfg
	lines := []string{fmt.Sprintf("node %s self=%s", strings.Join(c.Nodes, " "), c.Nodes[c.Self])}
	floors, promises := "", ""
	for _, id := range c.Identities {
		s := fmt.Sprintf("identity %s home=%s", id.Name, c.Nodes[id.Home])
		for i, p := range id.Prefer {
			s += pick(i == 0, " prefer=", ",") + c.Nodes[p]
		}
		if len(id.Exclusive) > 0 {
			s += " " + strings.Join(id.Exclusive, " ")
		}
		if id.Failback != "manual" {
			s += " failback=" + id.Failback
		}
		if id.FailbackAfter != 0 {
			s += " after=" + duration(id.FailbackAfter)
		}
		if id.StagingAhead {
			s += " staging=ahead"
		}
		if id.Mirrored {
			s += " data=mirrored"
		}
		if id.Aside {
			s += " carrier=aside"
		}
		if id.Runs {
			s += " runs=yes"
		}
		if id.AfterSilence != 0 {
			s += " silence=" + duration(id.AfterSilence)
		}
		lines = append(lines, s)
		if id.Floor != 0 {
			floors += fmt.Sprintf(" %s=%d", id.Name, id.Floor)
		}
		if g := saved.Generations[id.Name]; g != id.Floor {
			promises += fmt.Sprintf(" %s=%d", id.Name, g)
		}
	}
	if len(c.Concurrent) > 0 {
		lines = append(lines, "concurrent "+strings.Join(c.Concurrent, " "))
	}
	if len(c.Vital) > 0 {
		lines = append(lines, "vital "+strings.Join(c.Vital, " "))
	}
	if c.Hold {
		lines = append(lines, "hold"+pick(c.UntilSynced, " until-synced", ""))
	}
	if c.DemandIfLost {
		lines = append(lines, "demand-if-lost")
	}
	if c.Fence {
		lines = append(lines, "fence delay="+duration(c.FenceDelay))
	}
	if c.EndAfter != 0 {
		lines = append(lines, "end-after "+duration(c.EndAfter))
	}
	if c.Etcd {
		lines = append(lines, "etcd")
	}
	if l := c.Limits.text(); l != "" {
		lines = append(lines, "limits"+l)
	}
	if floors += flagsText(saved); floors != "" {
		lines = append(lines, "saved"+floors)
	}
	if promises != "" {
		lines = append(lines, "promised"+promises)
	}
	for i := range lines {
		lines[i] = oneLine(lines[i])
	}
	return lines
}

// text is what is not as it is by default.
func (l Limits) text() (s string) {
	d := Limits{}.withDefaults()
	for _, v := range []struct {
		name    string
		is, def int64
	}{
		{"stage", l.Stage, d.Stage}, {"release", l.Release, d.Release}, {"swap", l.Swap, d.Swap}, {"address", l.Address, d.Address},
		{"service", l.Service, d.Service}, {"persist", l.Persist, d.Persist}, {"fence", l.Fence, d.Fence}, {"copy", l.Copy, d.Copy}, {"last-copy", l.LastCopy, d.LastCopy}, {"lan-stable", l.LanStable, d.LanStable}, {"lan-back", l.LanBack, d.LanBack}, {"move-every", l.MoveEvery, d.MoveEvery}, {"peer-services", l.PeerServices, d.PeerServices},
	} {
		if v.is != 0 && v.is != v.def {
			s += " " + v.name + "=" + duration(v.is)
		}
	}
	return s
}

func flagsText(s Saved) (text string) {
	if s.Standby {
		text += " standby"
	}
	if s.Frozen {
		text += " frozen"
	}
	if s.Held {
		text += " held"
	}
	return text
}

// Event is the line of an input, with its boottime in seconds.
func (x *Transcript) Event(at int64, ev Event) string {
	s := ""
	switch e := ev.(type) {
	case Started:
		s = "start"
	case Tick:
		s = "tick"
	case Observed:
		s = "see" + x.see(e)
	case Done:
		s = "ok " + x.result(e.Op)
	case Failed:
		s = pick(e.Refused, "refuse ", "fail ") + x.result(e.Op) + ": " + e.Err
	case Swapped:
		s = x.swapped(e)
	case LinkChanged:
		s = fmt.Sprintf("link %s%s %s", pick(x.cfg.many(), x.cfg.node(e.Peer)+" ", ""), e.Link, pick(e.Up, "up", "down"))
	case ServiceState:
		s = fmt.Sprintf("service %s %s %s", x.cfg.name(e.Identity), e.Service, pick(e.Expired, "expired", pick(e.Healthy, "healthy", "failed: "+e.Err)))
	case ServicesEnded:
		s = "ended " + x.cfg.name(e.Identity) + pick(e.Refused, " refused", "")
	case CmdMove:
		s = "cmd move " + x.cfg.name(e.Identity)
		if e.To >= 0 && e.To < len(x.cfg.Nodes) {
			s += " " + x.cfg.Nodes[e.To]
		}
		if e.Force {
			s += " force"
		}
	case CmdGiveback:
		s = "cmd giveback"
	case CmdStandby:
		s = "cmd standby " + onOff(e.On)
	case CmdFreeze:
		s = "cmd freeze " + onOff(e.On)
	case CmdLeave:
		s = "cmd leave"
	default:
		s = fmt.Sprintf("%T", ev)
	}
	return oneLine(fmt.Sprintf("@%d.%09d %s", at/1e9, at%1e9, s))
}

// Action is the line of an action, without its indent.
func (x *Transcript) Action(a Action) string {
	if op, what := x.cfg.asked(a); op != 0 {
		x.pending[op] = what
	}
	return x.cfg.Describe(a)
}

// Describe is an action as text.
func (c Config) Describe(a Action) string {
	s := ""
	switch a := a.(type) {
	case Persist:
		s = "persist"
		for _, id := range c.Identities {
			if g, ok := a.Saved.Generations[id.Name]; ok {
				s += fmt.Sprintf(" %s=%d", id.Name, g)
			}
		}
		s += flagsText(a.Saved)
	case Swap:
		s = fmt.Sprintf("swap %s: %s -> %s", c.name(a.Identity), c.word(a.Old), c.word(a.New))
	case Carry:
		s = fmt.Sprintf("carry %s by %s%s", c.name(a.Identity), pick(a.Spare, "spare", "lan"), pick(a.Addresses, ", with its addresses", ""))
	case StartServices:
		s = fmt.Sprintf("start %s, generation %d", c.name(a.Identity), a.Generation)
	case Win:
		s = fmt.Sprintf("win %s, generation %d", c.name(a.Identity), a.Generation)
	case GiveUp:
		s = "give up " + c.name(a.Identity)
	case Copy:
		s = fmt.Sprintf("copy %s to %s%s", c.name(a.Identity), c.node(a.To), pick(a.Last, ", the last of it", ""))
	case CancelCopy:
		s = "cancel copy"
	case CancelFence:
		s = "cancel fence"
	case Announce:
		s = fmt.Sprintf("announce %s, generation %d", c.name(a.Identity), a.Generation)
	case Pulse:
		s = "pulse"
	case SetFlags:
		s = fmt.Sprintf("flags standby=%s frozen=%s", onOff(a.Standby), onOff(a.Frozen))
	case Notify:
		s = fmt.Sprintf("notify %s (%s): %s", a.Kind, c.name(a.Identity), a.Text)
	case Reply:
		s = fmt.Sprintf("reply %d: %s", a.Op, pick(a.Err == "", "done", "not done: "+a.Err))
	case Left:
		s = "left"
	default:
		_, s = c.asked(a)
	}
	return oneLine(s)
}

// OpOf is the number by which an action's result comes back, 0 if none does.
func OpOf(a Action) uint64 {
	op, _ := Config{}.asked(a)
	return op
}

// asked is the Op of an action that is answered, and what it does.
func (c Config) asked(a Action) (op uint64, what string) {
	switch a := a.(type) {
	case Persist:
		return a.Op, "persist"
	case Fence:
		return a.Op, "fence"
	case Copy:
		return a.Op, "copy " + c.name(a.Identity)
	case StartConcurrent:
		return a.Op, "start concurrent"
	case StopConcurrent:
		return a.Op, "stop concurrent"
	case Swap:
		return a.Op, "swap " + c.name(a.Identity)
	case Carry:
		return a.Op, "carry " + c.name(a.Identity)
	case AddAddresses:
		return a.Op, "add " + c.name(a.Identity)
	case RemoveAddresses:
		return a.Op, "remove " + c.name(a.Identity)
	case StartServices:
		return a.Op, "start " + c.name(a.Identity)
	case StopServices:
		return a.Op, "stop " + c.name(a.Identity)
	}
	return 0, ""
}

// result is what an Op did; one from before the transcript has its number only.
func (x *Transcript) result(op uint64) string {
	what, known := x.pending[op]
	if !known {
		return fmt.Sprintf("op %d", op)
	}
	delete(x.pending, op)
	return what
}

func (x *Transcript) swapped(e Swapped) string {
	if e.OK && e.Identity >= 0 && e.Identity < len(x.seen.Local) {
		x.seen.Local[e.Identity] = e.Current
	}
	return pick(e.OK, "ok ", "fail ") + x.result(e.Op)
}

// node is a node's name.
func (c Config) node(i int) string {
	if i < 0 || i >= len(c.Nodes) {
		return fmt.Sprintf("node-%d", i)
	}
	return c.Nodes[i]
}

func (c Config) word(w Word) string {
	return strings.Join(append(w.names(c.node), fmt.Sprintf("gen %d", w.Gen())), " ")
}

// name is an identity's, or node.
func (c Config) name(i int) string {
	switch {
	case i < 0:
		return "node"
	case i >= len(c.Identities):
		return fmt.Sprintf("identity-%d", i)
	}
	return c.Identities[i].Name
}

// news is what of an Observed is new, as text.
type news struct{ strings.Builder }

func (n *news) add(is bool, key, value string) {
	if is {
		n.WriteString(" " + key + "=" + value)
	}
}

func (n *news) flag(is, was bool, key string) { n.add(is != was, key, pick(is, "yes", "no")) }

// see is what of an Observed is new.
func (x *Transcript) see(o Observed) string {
	was, n := x.seen, &news{}
	x.seen = o.clone()
	var peers []int
	for p := range x.cfg.Nodes {
		if p != x.cfg.Self && p < len(o.Peers) && p < len(was.Peers) {
			peers = append(peers, p)
		}
	}
	for _, p := range peers {
		x.seePeer(n, p, o.Peers[p], was.Peers[p])
	}
	n.flag(o.Isolated, was.Isolated, "isolated")
	if !x.cfg.many() {
		n.flag(o.granted(0), was.granted(0), "granted")
	}
	n.flag(o.Fenced, was.Fenced, "fenced")
	n.flag(o.Barred, was.Barred, "barred")
	n.add(o.MyLan.Lan != was.MyLan.Lan, "lan", o.MyLan.Lan.text())
	n.add(o.MyLan.Spare != was.MyLan.Spare, "spare", o.MyLan.Spare.text())
	for _, p := range peers {
		pre, is, was := x.cfg.peerKey(p, "peer-"), o.Peers[p].Lan, was.Peers[p].Lan
		n.add(is.Lan != was.Lan, pre+"lan", is.Lan.text())
		n.add(is.Spare != was.Spare, pre+"spare", is.Spare.text())
	}
	for i := range x.cfg.Identities {
		x.seeIdentity(n, i, o, was)
	}
	return n.String()
}

// peerKey begins the key of what is of a peer: among many with its name, and so as it is in a pair.
func (c Config) peerKey(p int, pair string) string {
	if c.many() {
		return c.node(p) + ":"
	}
	return pair
}

func (x *Transcript) seePeer(n *news, p int, v, was PeerView) {
	name := pick(x.cfg.many(), x.cfg.node(p), "peer")
	n.add(v.State != was.State, name, v.State.String())
	n.add(v.Boot != was.Boot, x.cfg.peerKey(p, "")+"boot", fmt.Sprint(v.Boot))
	n.flag(v.SupervisorOK, was.SupervisorOK, x.cfg.peerKey(p, "")+"supervisor")
	n.flag(v.Standby, was.Standby, x.cfg.peerKey(p, "peer-")+"standby")
	n.flag(v.Frozen, was.Frozen, x.cfg.peerKey(p, "peer-")+"frozen")
	runs := x.cfg.runs(v)
	n.add(runs != x.cfg.runs(was), x.cfg.peerKey(p, "peer-")+"runs", runs)
}

// runs lists whose services may run on a node.
func (c Config) runs(v PeerView) string {
	var names []string
	for i := range c.Identities {
		if v.runs(i) {
			names = append(names, c.name(i))
		}
	}
	return pick(len(names) == 0, "none", strings.Join(names, ","))
}

// seeIdentity tells the words as own/peer's, among many each peer's for itself.
func (x *Transcript) seeIdentity(n *news, i int, o, was Observed) {
	c, name := x.cfg, x.cfg.name(i)
	text := c.newWord(was.Local, o.Local, i)
	for p := range o.Peers {
		theirs := ""
		if p < len(was.Peers) && p != c.Self {
			theirs = c.newWord(was.Peers[p].Words, o.Peers[p].Words, i)
		}
		switch {
		case theirs == "":
		case c.many():
			n.add(true, name+":"+c.node(p), theirs)
		default:
			text += "/" + theirs
		}
	}
	n.add(text != "", name, text)
	if c.many() {
		n.flag(o.granted(i), was.granted(i), "granted:"+name)
	}
	n.flag(o.unsynced(i), was.unsynced(i), "unsynced:"+name)
	n.flag(o.unasked(i), was.unasked(i), "unasked:"+name)
	if i < len(o.Keys) && i < len(was.Keys) && o.Keys[i] != was.Keys[i] {
		n.add(true, "key:"+name, o.Keys[i].text())
	}
}

// text is the generations that are held and stored, and whether another node holds it.
func (k Key) text() string {
	return fmt.Sprintf("%d/%d", k.Held, k.Stored) + pick(k.Elsewhere, "/elsewhere", "")
}

// newWord is a word that is not what it was, or "".
func (c Config) newWord(was, is []Word, i int) string {
	if i >= len(is) || i < len(was) && was[i] == is[i] {
		return ""
	}
	flags := is[i].names(c.node)
	if len(flags) == 0 {
		flags = []string{"plain"}
	}
	return fmt.Sprintf("%s@%d", strings.Join(flags, "|"), is[i].Gen())
}

func (n NIC) text() string {
	switch {
	case !n.Present:
		return "none"
	case !n.Carrier:
		return "down"
	case n.Majority == 0:
		return "up"
	}
	return fmt.Sprintf("%d/%d", n.Reach, n.Majority)
}

// duration has the largest unit of which it is a whole number.
func duration(ns int64) string {
	for _, u := range []struct {
		ns   int64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}} {
		if ns%u.ns == 0 {
			return fmt.Sprintf("%d%s", ns/u.ns, u.name)
		}
	}
	return fmt.Sprintf("%dns", ns)
}

// oneLine keeps what others wrote, as an error of a command, from being more than one line, or
// an order to a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

func pick[T any](yes bool, a, b T) T {
	if yes {
		return a
	}
	return b
}
