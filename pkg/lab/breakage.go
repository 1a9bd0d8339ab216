// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// allCables are the three of a node.
const allCables uint64 = 1<<Crossover | 1<<LAN | 1<<Spare

// breakage is a fault that lasts.
type breakage struct {
	kind  Fault
	node  string
	loose bool         // it holds no cable at this moment, as when a flapping one is whole
	end   func() error // of what it does over and over; nil: nothing
}

// cables are those, of all, through which nothing passes while it lasts; dark: they have no carrier either.
func (b *breakage) cables(all []Port) (ports []Port, dark bool) {
	switch b.kind {
	case FaultHang, FaultPanic, FaultPause:
		return portsOf(all, b.node), false
	case FaultPower, FaultIsolate:
		return portsOf(all, b.node), true
	case FaultBootBoth:
		return portsThat(all, Port.Server), true
	case FaultCrossover: // a cable has two ends, a switch has many
		crossovers := portsThat(all, func(p Port) bool { return p.Role == Crossover })
		if len(crossovers) > 2 {
			crossovers = portsOf(crossovers, b.node)
		}
		return crossovers, true
	case FaultLAN, FaultFlap:
		return portsThat(all, func(p Port) bool { return p.Node == b.node && p.Role == LAN }), true
	case FaultSwitch:
		lan, _ := findPort(all, b.node, LAN)
		return portsThat(all, func(p Port) bool { return p.Switch == lan.Switch || p.Role == TrunkCable }), true
	case FaultTrunk:
		return portsThat(all, func(p Port) bool { return p.Role == TrunkCable }), true
	}
	return nil, false
}

func portsThat(all []Port, which func(Port) bool) (out []Port) {
	for _, p := range all {
		if which(p) {
			out = append(out, p)
		}
	}
	return out
}

// portsOf are all cables of a node.
func portsOf(all []Port, node string) []Port {
	return portsThat(all, func(p Port) bool { return p.Node == node })
}

// again has f called every so often, from now on until the fault ends, which is when its errors are told.
func (b *breakage) again(every time.Duration, f func() error) {
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for tick := time.NewTicker(every); ; {
			err = errors.Join(err, f())
			select {
			case <-tick.C:
			case <-stop:
				tick.Stop()
				done <- err
				return
			}
		}
	}()
	b.end = func() error { close(stop); return <-done }
}

// breakages are all that last.
type breakages struct {
	mu    sync.Mutex
	all   []*breakage
	ports []Port // of the lab
}

func (s *breakages) add(b *breakage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, b)
}

// turn has a fault hold its cables if it does not, and let go of them if it does.
func (s *breakages) turn(b *breakage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.loose = !b.loose
}

// remove ends what goes on, and forgets it; there may be none.
func (s *breakages) remove(kind Fault, node string) error {
	s.mu.Lock()
	var gone []*breakage
	s.all = slices.DeleteFunc(s.all, func(b *breakage) bool {
		if b.kind != kind || b.node != node {
			return false
		}
		gone = append(gone, b)
		return true
	})
	s.mu.Unlock()
	var errs []error
	for _, b := range gone {
		if b.end != nil {
			errs = append(errs, b.end())
		}
	}
	return errors.Join(errs...)
}

// removeAll is for the lab's end.
func (s *breakages) removeAll() error {
	var errs []error
	for _, k := range Faults {
		for i := range MaxNodes {
			errs = append(errs, s.remove(k, server(i)))
		}
	}
	return errors.Join(errs...)
}

// has reports whether a node suffers one of these.
func (s *breakages) has(node string, kinds ...Fault) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, func(b *breakage) bool {
		return (b.node == node || b.kind == FaultBootBoth) && slices.Contains(kinds, b.kind)
	})
}

// holds are the numbers of the ports that are cut, and of those that have no carrier.
func (s *breakages) holds() (cut, dark map[int]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cut, dark = map[int]bool{}, map[int]bool{}
	for _, b := range s.all {
		if b.loose {
			continue
		}
		ports, isDark := b.cables(s.ports)
		for _, p := range ports {
			cut[p.Number] = true
			dark[p.Number] = dark[p.Number] || isDark
		}
	}
	return cut, dark
}

// cut cuts or mends cables as the faults that last want it, those of a node in one store.
func (l *Lab) cut(ports []Port) {
	held, _ := l.broken.holds()
	mask, want := map[string]uint64{}, map[string]uint64{}
	for _, p := range ports {
		mask[p.Node] |= 1 << p.Role
		if held[p.Number] {
			want[p.Node] |= 1 << p.Role
		}
	}
	for node, m := range mask {
		setBits(l.cables.CutWord(cutIndex[node]), m, want[node])
	}
}

// cutAll cuts all cables of a node in one store, until cut is asked for them.
func (l *Lab) cutAll(node string) {
	var mask uint64
	for _, p := range portsOf(l.ports, node) {
		mask |= 1 << p.Role
	}
	setBits(l.cables.CutWord(cutIndex[node]), mask, mask)
}

// carry gives cables a carrier or takes it, as the faults that last want it. It returns when
// the ports forward again, after then, if there is one, was called for them.
func (l *Lab) carry(ports []Port, then func([]Port)) error {
	l.cabling.Lock()
	defer l.cabling.Unlock()
	_, dark := l.broken.holds()
	var errs []error
	var lit []Port
	for _, p := range ports {
		errs = append(errs, l.setPort(p, !dark[p.Number]))
		if !dark[p.Number] && (p.Role != LAN || !p.Server() || !l.broken.has(p.Node, FaultNIC)) {
			lit = append(lit, p)
		}
	}
	errs = append(errs, l.awaitCarrier(lit))
	if then != nil {
		then(ports)
	}
	return errors.Join(errs...)
}
