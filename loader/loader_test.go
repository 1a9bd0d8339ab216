// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/core"
)

func TestFlagsSurviveTheirFrame(t *testing.T) {
	for _, f := range []Flags{
		{},
		{Standby: true},
		{Part: true, Services: 0x8001},
		{Frozen: true, Reach: [Links]int{Lan: 3, Spare: 8}},
		{Standby: true, Frozen: true, Reach: [Links]int{Lan: 8}, Carrier: [Links]bool{Lan: true, Spare: true}},
	} {
		if got := parseFlags(f.word()); got != f {
			t.Errorf("%+v came back as %+v", f, got)
		}
	}
}

func TestEveryReasonHasALabelOfItsOwn(t *testing.T) {
	seen := map[Reason]int{}
	for i, r := range reasons {
		if r.Kind == "" || r.Verdict == "" || r.Name == "" {
			t.Errorf("reason %d lacks a label: %+v", i, r)
		}
		if j, ok := seen[r]; ok {
			t.Errorf("reasons %d and %d are both %+v", j, i, r)
		}
		seen[r] = i
	}
}

func TestConfigurationsThatDoNotFitAreRefused(t *testing.T) {
	key := Key{ID: 1}
	host := netip.MustParseAddr("192.0.2.1")
	for name, c := range map[string]struct {
		cfg  Config
		says string
	}{
		"no key":               {Config{}, "keys"},
		"three keys":           {Config{Keys: []Key{key, key, key}}, "keys"},
		"seventeen identities": {Config{Keys: []Key{key}, Identities: make([]IdentityConfig, MaxIdentities+1)}, "identities"},
		"nine hosts":           {Config{Keys: []Key{key}, Reach: []netip.Addr{host, host, host, host, host, host, host, host, host}}, "hosts"},
		"no other node":        {Config{Nodes: 1, Keys: []Key{key}}, "1 nodes"},
		"seventeen nodes":      {Config{Nodes: MaxNodes + 1, Keys: []Key{key}}, "17 nodes"},
		"a node too high":      {Config{Nodes: 3, Self: 3, Keys: []Key{key}, Verdict: VerdictEtcd, ServeFor: 1}, "node 3"},
		"many without etcd":    {Config{Nodes: 3, Keys: []Key{key}, ServeFor: 1}, "etcd"},
		"many that keep":       {Config{Nodes: 3, Keys: []Key{key}, Verdict: VerdictEtcd}, "right to serve"},
		"many with hosts":      {Config{Nodes: 3, Keys: []Key{key}, Verdict: VerdictEtcd, ServeFor: 1, Reach: []netip.Addr{host}}, "for two"},
		"no candidate":         {Config{Nodes: 2, Keys: []Key{key}, Identities: make([]IdentityConfig, 1)}, "candidates 0b0"},
		"a candidate too high": {Config{Nodes: 2, Keys: []Key{key}, Identities: []IdentityConfig{{Candidates: 4}}}, "candidates 0b100"},
	} {
		if _, err := c.cfg.abi(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error about %s", name, err, c.says)
		}
	}
}

func TestTheFirstIPv4AddressIsTheOneAnnounced(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.21"), netip.MustParseAddr("2001:db8::21")
	cfg := Config{Nodes: 2, Keys: []Key{{}}, Identities: []IdentityConfig{
		{Candidates: 3, Addresses: []netip.Addr{v6, v4}}, {Candidates: 3, Addresses: []netip.Addr{v6}},
	}}
	v, err := cfg.abi()
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Identities[0].AnnouncedBe; got != be(v4) {
		t.Errorf("announces %08x, want %08x", got, be(v4))
	}
	if got := v.Identities[1].AnnouncedBe; got != 0 {
		t.Errorf("without IPv4 it announces %08x, want nothing", got)
	}
	for i := range 2 {
		if got := netip.AddrFrom16(v.Identities[i].Announced6); got != v6 {
			t.Errorf("identity %d announces %v, want %v", i, got, v6)
		}
	}
}

func TestEventsAreReadAsTheKernelWroteThem(t *testing.T) {
	b := make([]byte, 48)
	binary.LittleEndian.PutUint64(b, 42)
	binary.LittleEndian.PutUint32(b[8:], uint32(TakenOver))
	binary.LittleEndian.PutUint16(b[12:], 0xffff)
	binary.LittleEndian.PutUint16(b[14:], 2)
	binary.LittleEndian.PutUint64(b[16:], 7)
	binary.LittleEndian.PutUint64(b[24:], 9)
	copy(b[32:], netip.MustParseAddr("::ffff:192.0.2.21").AsSlice())
	e, err := parseEvent(b)
	if want := (Event{42, TakenOver, -1, 2, 7, 9, netip.MustParseAddr("192.0.2.21")}); err != nil || e != want {
		t.Errorf("%+v, %v; want %+v", e, err, want)
	}
	if _, err := parseEvent(b[:47]); err == nil {
		t.Error("a short record is taken")
	}
	if s := Announced.String(); s != "kernel-announced" {
		t.Errorf("the event is called %q", s)
	}
}

func TestTheGateOfARunningSupervisor(t *testing.T) {
	open := State{AtNS: 10, LeaseUntilNS: 11, ServeNeeded: true, GrantedUntilNS: []int64{11}, LeaveNS: []int64{0}, Words: []core.Word{core.MakeWord(core.Owner, 1)}}
	for name, c := range map[string]struct {
		change func(*State)
		open   bool
	}{
		"owner with a lease":            {func(*State) {}, true},
		"not the owner":                 {func(s *State) { s.Words = []core.Word{core.MakeWord(core.Ready, 1)} }, false},
		"cut off":                       {func(s *State) { s.GrantedUntilNS = []int64{10} }, false},
		"arbiter none":                  {func(s *State) { s.GrantedUntilNS, s.ServeNeeded = []int64{0}, false }, true},
		"cut off, with the key in etcd": {func(s *State) { s.GrantedUntilNS, s.LeaveNS = []int64{10}, []int64{11} }, true},
		"without a lease":               {func(s *State) { s.LeaseUntilNS = 10 }, false},
	} {
		s := open
		c.change(&s)
		got, reason := s.GateOpen(0)
		if got != c.open || (reason == "") != c.open {
			t.Errorf("%s: open %v, reason %q", name, got, reason)
		}
	}
}

// Grants of before an identity came here, and those of who may not own it, say nothing.
func TestAnIdentityIsGrantedUntilTheFirstCandidatesGrantEnds(t *testing.T) {
	d := Datapath{memory: memory{state: new(bpf.XdphaXdState), peers: new([MaxNodes]bpf.XdphaXdPeer)}}
	d.cfg.N_nodes, d.cfg.Self, d.cfg.ServeNs = 4, 1, 100
	d.cfg.Identities[2].Candidates = 1<<0 | 1<<1 | 1<<2
	for node, granted := range []uint64{30, 5, 20, 1} {
		d.peers[node].GrantedNs = granted
	}
	for taken, want := range map[uint64]int64{19: 120, 20: 0} {
		d.state.TakenNs[2] = taken
		if got := d.grantedUntil(2); got != want {
			t.Errorf("taken at %d: granted until %d, want %d", taken, got, want)
		}
	}
	d.peers[0].GrantedNs, d.state.TakenNs[2] = 0, 19
	if got := d.grantedUntil(2); got != 0 {
		t.Errorf("one never granted: until %d", got)
	}
	d.state.ServeUntilNs, d.cfg.N_nodes = 77, 2
	if got := d.grantedUntil(2); got != 77 {
		t.Errorf("a pair: until %d", got)
	}
}

func TestPinsMustBeOnABPFFS(t *testing.T) {
	if err := onBPFFS(t.TempDir()); err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("%v, want the command that mounts one", err)
	}
}
