// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"unsafe"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/wire"
)

// ledger is what a frame may write: all else must be as before.
type ledger struct {
	*judgement
	want moment
	now  moment
}

func (j *judgement) ledger() *ledger { return &ledger{j, *j.before, j.moment()} }

// settle tells what was written that may not be.
func (l *ledger) settle(who string) error {
	if l.want.words != l.now.words {
		return fmt.Errorf("%s made the words %x of %x", who, l.now.words[:identities], l.before.words[:identities])
	}
	if l.want.timelines != l.now.timelines {
		return fmt.Errorf("%s wrote the timelines %+v over %+v", who, l.now.timelines[:identities], l.before.timelines[:identities])
	}
	if err := settled(who, &l.want.state, &l.now.state); err != nil {
		return err
	}
	for i := range l.want.peers {
		if err := settled(who, &l.want.peers[i], &l.now.peers[i]); err != nil {
			return fmt.Errorf("of node %d: %w", i, err)
		}
	}
	return nil
}

func settled[T any](who string, want, got *T) error {
	w, g := fields(want), fields(got)
	for i := range g {
		if g[i] != w[i] {
			return fmt.Errorf("%s made %s %#x of %#x", who, fieldName[T](i), g[i], w[i])
		}
	}
	return nil
}

// stamped lets a time be set to that of the frame.
func (l *ledger) stamped(want *uint64, got uint64) {
	if got >= l.began && got <= l.ended {
		*want = got
	}
}

// first lets the first packets of an open identity be noted.
func (l *ledger) first(m *moment) {
	for id := range identities {
		if _, closed := l.open(m, id); closed {
			continue
		}
		want, got := &l.want.timelines[id], &l.now.timelines[id]
		for _, t := range []struct {
			want *uint64
			got  uint64
		}{{&want.AnsweredNs, got.AnsweredNs}, {&want.InNs, got.InNs}, {&want.OutNs, got.OutNs}} {
			if *t.want == 0 {
				l.stamped(t.want, t.got)
			}
		}
	}
}

// claimed: a claim is counted, and told once in a while; one that must be denied is kept if there is room.
func (l *ledger) claimed(kept bool) {
	want, now, b := &l.want.state, &l.now.state, l.bare
	address := netip.AddrFrom16([16]byte(append(slices.Clone(b), make([]byte, 64)...)[62:]))
	if f, ok := asARP(b); ok {
		if address = f.sender; !kept {
			address = f.target
		}
	}
	id, ok := idOfIP[address]
	if !ok || now.Conflicts[id] == want.Conflicts[id] && !kept {
		return
	}
	want.Conflicts[id]++
	l.stamped(&want.ConflictToldNs[id], now.ConflictToldNs[id])
	if n := want.Claimed; kept && n-want.Denied < 64 {
		first, second := halves(address)
		want.Claims[n%64] = bpf.XdphaXdClaim{Mark: n<<8 | uint64(id) + 1, First: first, Second: second}
		want.Claimed++
	}
}

func (j *judgement) wroteIn() error {
	l := j.ledger()
	f, authentic, _ := j.heartbeat()
	if authentic {
		if f, fresh := j.fresh(); fresh {
			return l.peerWrote(f)
		}
		if err := l.knocked(f); err != nil {
			return err
		}
	}
	l.strangerWrote()
	who := "a frame without the key"
	if authentic {
		who = "a frame that is not fresh, or not for this link,"
	}
	return l.settle(who)
}

// knocked: who has the key but is not proven is noted while no peer is up.
func (l *ledger) knocked(f wire.Frame) error {
	if reasonNames[l.reason] != "hb-unproven" {
		return nil
	}
	want := l.want.other(l.cfg)
	if s := l.before.other(l.cfg).State; s == unknown || s == dead {
		want.Paths[f.Link].Unproven = f.Nonce
		l.stamped(&want.KnockedNs, l.now.other(l.cfg).KnockedNs)
	}
	return nil
}

// strangerWrote: somebody without the key can leave no more behind than that he was there, that he
// claimed an address, and what a listed host can say, whose answers are ARP's.
func (l *ledger) strangerWrote() {
	b := l.bare
	want, now := &l.want.state, &l.now.state
	if l.link == crossover && len(b) >= 42 && b[23] == 17 {
		l.stamped(&want.StrangerNs, now.StrangerNs)
		if want.StrangerNs == now.StrangerNs && now.StrangerNs != l.before.state.StrangerNs && len(b) > 44 {
			want.StrangerVersion = uint64(b[44])
		}
	}
	switch reasonNames[l.reason] {
	case "arp-conflict", "nd-conflict":
		l.claimed(true)
	case "arp-answered", "nd-answered": // the question may be a wish for the address
		l.claimed(false)
	}
	l.first(l.before)
	f, ok := asARP(b)
	host := slices.Index(hosts[:l.cfg.N_reach], f.sender)
	if !ok || host < 0 || l.link == none {
		return
	}
	l.stamped(&want.ReachNs[host][l.link], now.ReachNs[host][l.link])
	if mac := now.ReachMac[host]; mac == mac64(f.senderMAC) || mac == 0 {
		want.ReachMac[host] = mac
	}
	l.reached()
}

// reached: a majority's answers prolong a right that there is, while the peer is silent.
func (l *ledger) reached() {
	was, want, now := &l.before.state, &l.want.state, &l.now.state
	answered := 0
	for _, at := range now.ReachNs {
		if int64(at[lan]-was.ReachSentNs) > 0 || int64(at[spare]-was.ReachSentNs) > 0 {
			answered++
		}
	}
	if was.ReachSentNs == 0 || 2*answered <= int(l.cfg.N_reach) {
		return
	}
	if now.ReachOkNs == was.ReachSentNs && int64(was.ReachSentNs-was.ReachOkNs) > 0 {
		want.ReachOkNs = now.ReachOkNs
	}
	silent := int64(l.ended-l.before.other(l.cfg).HeardNs) > int64(l.cfg.ProbeNs)
	serving := l.cfg.ServeNs != 0 && int64(was.ServeUntilNs-l.began) > 0
	if until := was.ReachSentNs + l.cfg.ServeNs; silent && serving && now.ServeUntilNs == until && until > was.ServeUntilNs {
		want.ServeUntilNs = until
	}
}

// peerWrote: what a fresh frame of the peer changes. What it says is taken as it says; ownership
// and the right to serve are changed by rules of their own.
func (l *ledger) peerWrote(f wire.Frame) error {
	was, want, now := l.before.other(l.cfg), l.want.other(l.cfg), l.now.other(l.cfg)
	want.Boot, want.Nonce, want.AgeUs = f.BootID, f.Nonce, uint64(f.AgeUS)
	want.Flags, want.Digest, want.Key = uint64(f.Flags), uint64(f.Digest), uint64(f.KeyID)
	l.stamped(&want.AgeAtNs, now.AgeAtNs)
	l.stamped(&want.HeardNs, now.HeardNs)
	link, got := &want.Paths[f.Link], &now.Paths[f.Link]
	want.Macs[l.far(f)] = mac64(f.SrcMAC)
	booted := f.BootID != was.Boot
	if booted {
		if want.MyNonceBefore = was.MyNonce; now.MyNonce != was.MyNonce && now.MyNonce != 0 {
			want.MyNonce = now.MyNonce
		}
		for i := range want.Paths {
			want.Paths[i].ProbeSeq = 0
		}
		want.Words = [16]uint64{}
	}
	if f.Direction == wire.Probe {
		link.ProbeSeq = f.Seq
	} else {
		link.ReplySeq = f.Seq
	}
	l.stamped(&link.HeardNs, got.HeardNs)
	if link.HeardNs != got.HeardNs {
		return errors.New("a fresh frame of the peer was not taken for life")
	}
	// How long it took and was silent is for people to read.
	link.RttNs, link.RttMaxNs, link.RttHist, link.GapMaxNs, link.GapHist = got.RttNs, got.RttMaxNs, got.RttHist, got.GapMaxNs, got.GapHist
	want.GapMaxNs, want.GapHist, l.want.state.Minutes = now.GapMaxNs, now.GapHist, l.now.state.Minutes
	// Of the peer's clock, never of mine.
	want.SentNs, want.SoloNs, want.SoloSentNs = now.SentNs, now.SoloNs, now.SoloSentNs
	if err := l.granted(f, booted); err != nil {
		return err
	}
	if err := l.owned(f, booted); err != nil {
		return err
	}
	return l.settle("a fresh frame of the peer")
}

// granted: nobody serves for longer than the peer lets him by a frame that he sent.
func (l *ledger) granted(f wire.Frame, booted bool) error {
	was, now, serve := &l.before.state, &l.now.state, l.cfg.ServeNs
	valid := serve != 0 && f.GrantNS != 0 && int64(l.ended-f.GrantNS) >= 0
	granted := l.now.other(l.cfg).GrantedNs
	switch {
	case granted == l.before.other(l.cfg).GrantedNs && !booted, granted == 0 && booted, valid && granted == f.GrantNS:
		l.want.other(l.cfg).GrantedNs = granted
	}
	switch got := now.ServeUntilNs; {
	case got == was.ServeUntilNs:
	case valid && got == f.GrantNS+serve && int64(got-was.ServeUntilNs) > 0:
	case int64(got-was.ServeUntilNs) < 0 && got == granted+serve: // the arbiter's leave is given back
	default:
		return fmt.Errorf("a frame that grants %d made the right to serve last until %d, not %d", f.GrantNS, got, was.ServeUntilNs)
	}
	l.want.state.ServeUntilNs = now.ServeUntilNs
	return nil
}

// owned: a frame gives what its sender has released to who waits for it, and closes what is older
// or what the other node may demand. It does nothing else to ownership.
func (l *ledger) owned(f wire.Frame, booted bool) error {
	heeded := f.Digest == l.cfg.Digest && len(f.Words) == identities
	for i := range identities {
		was, got := l.before.words[i], l.now.words[i]
		said, want := l.now.other(l.cfg).Words[i], l.want.other(l.cfg)
		if heeded && (said == f.Words[i] || said == want.Words[i]) {
			want.Words[i] = said
		}
		if was == got {
			continue
		}
		theirs := uint64(0)
		if heeded {
			theirs = f.Words[i]
		}
		if let, ok := l.forsaken(i, was); booted && ok && (got == let || heeded && l.mayBecome(i, let, got, theirs)) {
			l.want.words[i] = got
			continue
		}
		if !heeded || !l.mayBecome(i, was, got, theirs) {
			return fmt.Errorf("a frame that says %x made the word %x of %x", f.Words, got, was)
		}
		l.want.words[i] = got
		if got&owner != 0 {
			l.want.timelines[i] = l.now.timelines[i]
			l.want.state.ToAnnounce |= 1 << i
		}
	}
	if reasonNames[l.reason] == "hb-announced" { // one form has left, the others wait
		id := idOfMAC[wire.MAC(l.result.out[6:])]
		l.want.state.ToAnnounce = l.want.state.ToAnnounce&^(1<<id) | 1<<(16+id)
		if l.want.timelines[id].AnnouncedNs == 0 {
			l.stamped(&l.want.timelines[id].AnnouncedNs, l.now.timelines[id].AnnouncedNs)
		}
	}
	return nil
}

// forsaken is what becomes of a word when a peer is proven that has booted: what was owned here and not
// served any more may have been served there, before it forgot.
func (l *ledger) forsaken(i int, was uint64) (let uint64, ok bool) {
	const gen = 1<<48 - 1
	served := l.cfg.ServeNs == 0 || int64(l.before.state.ServeUntilNs-l.ended) > 0
	return yield | was&gen, was&owner != 0 && !served
}

// mayBecome tells whether a word of identity i may become another one when the peer says theirs.
func (l *ledger) mayBecome(i int, was, got, theirs uint64) bool {
	const gen = 1<<48 - 1
	lease := int64(l.control.LeaseUntilNs-l.began) > 0
	switch {
	case theirs&gen > was&gen:
		return got == theirs&gen
	case theirs&gen < was&gen:
		return false
	case was&owner != 0:
		return theirs&(ready|demand) == ready|demand && got == yield|was&gen
	default:
		next := got &^ owner // of this node's parity, above what it may have owned
		return was&ready != 0 && theirs&(owner|yield) == yield && lease && got&owner != 0 && next&^gen == 0 &&
			next > was&gen && next > l.control.Floor[i] && next%2 == uint64(l.cfg.Self)
	}
}

func (j *judgement) wroteOut() error {
	l := j.ledger()
	l.first(j.before)
	return l.settle("a frame that leaves")
}

// wroteTick: the pacer keeps its own books, and says what there is to say.
func (j *judgement) wroteTick() error {
	l := j.ledger()
	want, now := &l.want.state, &l.now.state
	want.Seq, want.Ticks, want.TickGapMaxNs = now.Seq, now.Ticks, now.TickGapMaxNs
	want.TokenNs, want.TokenStrikes, want.TokenDueNs, want.Hurry = now.TokenNs, now.TokenStrikes, now.TokenDueNs, now.Hurry
	want.ReachSentNs, want.ReachWaitNs, want.ToAnnounce = now.ReachSentNs, now.ReachWaitNs, now.ToAnnounce
	l.stamped(&l.want.other(l.cfg).CrossedNs, l.now.other(l.cfg).CrossedNs)
	if now.Seq-j.before.state.Seq > 1 {
		return fmt.Errorf("one tick sent %d probes", now.Seq-j.before.state.Seq)
	}
	for i := range identities {
		if want := &l.want.timelines[i].AnnouncedNs; *want == 0 {
			l.stamped(want, l.now.timelines[i].AnnouncedNs)
		}
	}
	if err := l.denied(); err != nil {
		return err
	}
	return l.settle("a tick")
}

// denied: a tick is done with a few claims, in their order, and no more of them in a while than is right.
func (l *ledger) denied() error {
	want, now := &l.want.state, &l.now.state
	l.stamped(&want.DenialsSinceNs, now.DenialsSinceNs)
	if want.DenialsSinceNs != l.before.state.DenialsSinceNs {
		want.Denials = 0
	}
	done := now.Denied - want.Denied
	if done > 4 || done > want.Claimed-want.Denied {
		return fmt.Errorf("one tick was done with %d claims of %d", done, want.Claimed-want.Denied)
	}
	for range done {
		want.Claims[want.Denied%64].Mark = 0
		want.Denied++
		want.Denials++
	}
	if want.Denials > 16 {
		return fmt.Errorf("%d claims were denied in a while", want.Denials)
	}
	return nil
}

// fields is a struct of the maps as the numbers that it consists of.
func fields[T any](s *T) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(s)), unsafe.Sizeof(*s)/8)
}

// fieldName names one of them.
func fieldName[T any](i int) string {
	t, at := reflect.TypeFor[T](), uintptr(8*i)
	name := t.Name()
	for {
		switch t.Kind() {
		case reflect.Struct:
			for f := range t.NumField() {
				if field := t.Field(f); field.Type.Size() > 0 && at >= field.Offset && at < field.Offset+field.Type.Size() {
					name, t, at = name+"."+field.Name, field.Type, at-field.Offset
					break
				}
			}
		case reflect.Array:
			n := at / t.Elem().Size()
			name, at, t = fmt.Sprintf("%s[%d]", name, n), at%t.Elem().Size(), t.Elem()
		default:
			return name
		}
	}
}
