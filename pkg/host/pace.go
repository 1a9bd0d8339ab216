// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How a frame is delayed on its lap.
const (
	// PaceFq: the program that sends the frame on sets its time of departure
	// (bpf_skb_set_tstamp, CLOCK_MONOTONIC); fq keeps it until then. The frame must
	// be an IP frame and must not have priority 7 (TC_PRIO_CONTROL): before Linux 6.7
	// fq sends that at once, whatever its time.
	PaceFq = "fq"
	// PaceTbf: the rate makes the delay; the program only sends the frame on.
	PaceTbf = "tbf"
)

const (
	minPace = 100 * time.Microsecond
	maxPace = time.Second
	// minToken and maxToken bound the circulating frame: Ethernet's least, without
	// its check sequence, and the greatest that a veth of the usual MTU takes.
	minToken = 60
	maxToken = 14 + 1500
	// maxTokens is how many frames may wait; any more are dropped.
	maxTokens = 2
	// pschedTick is the kernel's unit of time in qdisc parameters (PSCHED_SHIFT, /proc/net/psched).
	pschedTick = 64 * time.Nanosecond
	// fqHorizon is how far ahead a departure may lie, in microseconds; later ones are dropped.
	fqHorizon = 10_000_000
)

// Lap is how long the pacer's frame takes to go round: half an interval of probes, where a delay
// line keeps so short a time.
func Lap(probe time.Duration) time.Duration {
	if probe/2 < minPace {
		return probe
	}
	return probe / 2
}

// qdiscs is what pacing needs of netlink.
type qdiscs interface {
	QdiscList(netlink.Link) ([]netlink.Qdisc, error)
	QdiscReplace(netlink.Qdisc) error
	QdiscDel(netlink.Qdisc) error
}

// SetPace makes the start of a tick pair (an interface index from
// EnsureTickPair) a delay line, through which one frame of token bytes passes
// every so often. The frame's length is what tbf counts: the whole frame with its 14 bytes
// of Ethernet header and without check sequence, preamble and gap; skb->len in a tc program.
// A shorter frame passes sooner, in proportion; one longer than 1.25 × token is dropped.
//
// Two frames can wait, a third is dropped; however many there are, one passes at a
// time. A frame that was late is made up for by at most a quarter of the time: after
// it the next comes no sooner than 0.75 × every.
//
// What is there already and right is left alone, with the frame in it; a change
// of pace keeps the frame too. It returns how the delay is made: fq is preferred,
// tbf serves where the kernel has no fq.
//
// At each change the kernel logs that tbf's burst is lower than the device's MTU:
// that is meant, no frame of that length goes here.
func (h *Host) SetPace(start, token int, every time.Duration) (mode string, err error) {
	if every < minPace || every > maxPace || token < minToken || token > maxToken {
		return "", fmt.Errorf("set pace: one frame of %d bytes every %v must be within %d to %d bytes and %v to %v",
			token, every, minToken, maxToken, minPace, maxPace)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	link, err := h.tickStart(start)
	if err != nil {
		return "", fmt.Errorf("set pace: %w", err)
	}
	mode, err = setPace(h.qdiscs, link, token, every)
	if err != nil {
		return "", fmt.Errorf("set pace of %s: %w", link.Attrs().Name, err)
	}
	return mode, nil
}

// RemovePace takes the delay line off the start of a tick pair: frames pass at
// once. One that is not there is no error.
func (h *Host) RemovePace(start int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	link, err := h.tickStart(start)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pace: %w", err)
	}
	root, err := rootQdisc(h.qdiscs, link)
	if err == nil && root != nil && (root.Type() == PaceFq || root.Type() == PaceTbf) {
		err = h.qdiscs.QdiscDel(root)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove pace of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// tickStart finds the device and refuses one that is not an end of a tick pair of ours.
func (h *Host) tickStart(index int) (netlink.Link, error) {
	link, err := dump(func() (netlink.Link, error) { return h.nl.LinkByIndex(index) })
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("interface %d: %w", index, unix.ENODEV)
	}
	if err != nil {
		return nil, fmt.Errorf("read interface %d: %w", index, err)
	}
	if link.Attrs().Alias != h.mark || link.Type() != "veth" {
		return nil, fmt.Errorf("use device %s (%s, alias %q) as a tick pair's: %w", link.Attrs().Name, link.Type(), link.Attrs().Alias, ErrForeign)
	}
	return link, nil
}

func setPace(q qdiscs, link netlink.Link, token int, every time.Duration) (mode string, err error) {
	have, err := rootQdisc(q, link)
	if err != nil {
		return "", err
	}
	choices := paceChoices(link.Attrs().Index, token, every)
	for _, want := range choices {
		if samePace(have, want) {
			return want.Type(), nil
		}
	}
	for _, want := range choices {
		err := q.QdiscReplace(want)
		if errors.Is(err, unix.ENOENT) { // no qdisc of that kind, nor a module
			continue
		}
		if err != nil {
			return "", fmt.Errorf("give it qdisc %s: %w", want.Type(), err)
		}
		return want.Type(), nil
	}
	return "", fmt.Errorf("this kernel has neither fq nor tbf; it needs CONFIG_NET_SCH_FQ (module sch_fq) or CONFIG_NET_SCH_TBF (module sch_tbf), or pacer: thread: %w", unix.EOPNOTSUPP)
}

// paceChoices are the qdiscs that will do, the best first.
func paceChoices(index, token int, every time.Duration) []netlink.Qdisc {
	root := netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_ROOT}
	return []netlink.Qdisc{
		&netlink.Fq{QdiscAttrs: root, PacketLimit: maxTokens, FlowPacketLimit: maxTokens, Pacing: 0, Horizon: fqHorizon},
		&netlink.Tbf{
			QdiscAttrs: root,
			// Rounded down: a lap is never shorter than asked for.
			Rate:   uint64(token) * uint64(time.Second) / uint64(every),
			Buffer: uint32(every * 5 / 4 / pschedTick),
			Limit:  uint32(maxTokens * token),
		},
	}
}

// samePace tells whether a qdisc read back is the one wanted.
func samePace(have, want netlink.Qdisc) bool {
	switch w := want.(type) {
	case *netlink.Fq:
		h, ok := have.(*netlink.Fq)
		return ok && h.PacketLimit == w.PacketLimit && h.FlowPacketLimit == w.FlowPacketLimit && h.Pacing == w.Pacing && h.Horizon == w.Horizon
	case *netlink.Tbf:
		h, ok := have.(*netlink.Tbf)
		return ok && h.Rate == w.Rate && h.Buffer == w.Buffer && h.Limit == w.Limit && h.Peakrate == 0
	}
	return false
}

// rootQdisc is nil where a device has none: a veth by itself.
func rootQdisc(q qdiscs, link netlink.Link) (netlink.Qdisc, error) {
	list, err := dump(func() ([]netlink.Qdisc, error) { return q.QdiscList(link) })
	if err != nil {
		return nil, fmt.Errorf("read qdiscs: %w", err)
	}
	for _, have := range list {
		if have.Attrs().Parent == netlink.HANDLE_ROOT {
			return have, nil
		}
	}
	return nil, nil
}
