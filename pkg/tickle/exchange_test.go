// SPDX-License-Identifier: Apache-2.0

package tickle

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/line"
)

// words are the generations at which nodes own identities, by node and identity, as serv1 knows them.
type words [3][2]uint64

// exchange is serv1's, of three nodes. The third is no candidate for mail, of which no client is told.
func exchange(t *testing.T, w *words) *Exchange {
	t.Helper()
	addresses := func(s string) []config.AddressRange {
		r, err := config.ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		return []config.AddressRange{r}
	}
	cfg := &config.Config{
		Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}, {Name: "serv3"}},
		Keys:  []config.Key{{Line: sha256.Sum256(nil)}},
		Identities: []config.Identity{
			{Name: "files", Prefer: []int{0, 1}, Addresses: addresses("192.0.2.21/24")},
			{Name: "mail", Prefer: []int{1, 0}, Addresses: addresses("192.0.2.22/24"), NoTickle: true},
		},
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	l, err := line.New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{
		Config: cfg, Line: l, Log: log,
		Owned: func(i int) (uint64, bool) { return w[0][i], w[0][i] != 0 },
		Owns:  func(node, i int, generation uint64) bool { return w[node][i] == generation && w[0][i] == 0 },
		Heard: func(int) bool { return true },
	})
}

// clients are connections to ports of files.
func clients(ports ...uint16) (list []Connection) {
	for i, port := range ports {
		list = append(list, Connection{
			Local:  netip.AddrPortFrom(netip.MustParseAddr("192.0.2.21"), port),
			Remote: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.100"), 40000+uint16(i)),
		})
	}
	return list
}

func anyPort(uint16) bool { return true }

func TestOnlyTheOwnersWordIsKept(t *testing.T) {
	w := &words{1: {3, 5}}
	e := exchange(t, w)
	foreign := []Connection{{Local: netip.MustParseAddrPort("192.0.2.22:143"), Remote: netip.MustParseAddrPort("192.0.2.100:40000")}}
	for _, s := range []struct {
		name string
		node int
		o    offer
		list []Connection
		want string
	}{
		{"of the owner", 1, offer{Identity: "files", Generation: 3}, clients(445, 445), ""},
		{"of a generation that is over", 1, offer{Identity: "files", Generation: 1}, clients(445), "not known to own files at generation 1"},
		{"of a generation that is not known", 1, offer{Identity: "files", Generation: 7}, clients(445), "not known to own"},
		{"of another node", 2, offer{Identity: "files", Generation: 3}, clients(445), "serv3 is not known to own"},
		{"of another identity's address", 1, offer{Identity: "files", Generation: 3}, foreign, "no connection of files"},
		{"of an identity without", 1, offer{Identity: "mail", Generation: 5}, foreign, "copy the configuration"},
		{"of no identity", 1, offer{Identity: "fax", Generation: 3}, nil, `"fax"`},
	} {
		err := e.accept(s.node, s.o, s.list)
		if s.want == "" && err != nil || s.want != "" && (err == nil || !strings.Contains(err.Error(), s.want)) {
			t.Errorf("%s: %v", s.name, err)
		}
		if got := e.State(0); got.Known != 2 {
			t.Errorf("%s: then %d are known", s.name, got.Known)
		}
	}
	w[0][0] = 4 // taken over
	if err := e.accept(1, offer{Identity: "files", Generation: 3}, clients(445)); err == nil {
		t.Error("after the takeover the earlier owner's word is kept")
	}
}

func TestAClientIsToldOnceWhenItsPortIsReady(t *testing.T) {
	w := &words{1: {3}}
	e := exchange(t, w)
	if err := e.accept(1, offer{Identity: "files", Generation: 3}, clients(445, 139, 445, 80)); err != nil {
		t.Fatal(err)
	}
	if list := e.take(0, anyPort); len(list) != 0 {
		t.Errorf("of what another node owns %v are told", list)
	}
	w[0][0] = 4
	for _, s := range []struct {
		ports []uint16
		want  int
	}{{[]uint16{445}, 2}, {[]uint16{445}, 0}, {[]uint16{80, 139}, 2}, {[]uint16{445, 139, 80}, 0}} {
		if list := e.take(0, func(p uint16) bool { return slices.Contains(s.ports, p) }); len(list) != s.want {
			t.Errorf("ports %v: %v", s.ports, list)
		}
	}
}

// Its own clients are served.
func TestTheOwnersClientsAreNotTold(t *testing.T) {
	w := &words{1: {3}}
	e := exchange(t, w)
	if err := e.accept(1, offer{Identity: "files", Generation: 3}, clients(445)); err != nil {
		t.Fatal(err)
	}
	w[0][0] = 3
	if list := e.take(0, anyPort); len(list) != 0 {
		t.Errorf("%v", list)
	}
}

func TestWhatIsNotRepeatedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &words{1: {3}}
		e := exchange(t, w)
		if err := e.accept(1, offer{Identity: "files", Generation: 3}, clients(445)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(keep)
		if e.forget(); e.State(0).Known != 1 {
			t.Error("forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		if e.forget(); e.State(0).Known != 0 {
			t.Error("not forgotten")
		}
	})
}

func TestACandidateIsToldWhatItDoesNotKnow(t *testing.T) {
	e := exchange(t, &words{})
	begin := time.Now()
	at := func(generation uint64, after time.Duration, list []Connection) []told {
		return []told{{generation, list, begin.Add(after)}, {}}
	}
	nothing := make([]told, 2)
	for _, s := range []struct {
		name       string
		node       int
		now, known []told
		want       bool
	}{
		{"there is none yet", 1, at(4, 0, nil), nothing, false},
		{"the first one", 1, at(4, 0, clients(445)), nothing, true},
		{"who never owns it", 2, at(4, 0, clients(445)), nothing, false},
		{"nothing has changed", 1, at(4, time.Second, clients(445)), at(4, 0, clients(445)), false},
		{"one more", 1, at(4, time.Second, clients(139, 445)), at(4, 0, clients(445)), true},
		{"another generation", 1, at(6, time.Second, clients(445)), at(4, 0, clients(445)), true},
		{"the last one is gone", 1, at(4, time.Second, nil), at(4, 0, clients(445)), true},
		{"told long ago", 1, at(4, repeat, clients(445)), at(4, 0, clients(445)), true},
		{"not owned any more", 1, nothing, at(4, 0, clients(445)), false},
	} {
		if due := e.due(s.node, s.now, s.known); (len(due) == 1 && due[0] == 0) != s.want || len(due) > 1 {
			t.Errorf("%s: %v", s.name, due)
		}
	}
}

func TestAListBeyondTheLimitIsNotRead(t *testing.T) {
	e := exchange(t, &words{1: {3}})
	for _, n := range []int{-1, maxBytes + 1} {
		err := e.hearOne(&line.Conn{}, offer{"files", 3, n})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(n)) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
