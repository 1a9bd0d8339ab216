// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Protocol marks the rules and routes made here (RTPROT_*, FRA_PROTOCOL): a
// number that /etc/iproute2/rt_protos leaves free.
const Protocol = 218

const (
	// dumpAttempts bounds the retries of a dump that the kernel says was
	// interrupted (NLM_F_DUMP_INTR): the table changed while it was read.
	dumpAttempts = 8
	// maxMark is the longest ifalias (IFALIASZ less the closing zero).
	maxMark = 255
	// socketTimeout bounds one netlink exchange.
	socketTimeout = 5 * time.Second
)

// ErrForeign says that a device, rule or table of a name or number that is
// needed exists and is somebody else's. It is left as it is.
var ErrForeign = errors.New("not made by xdpha")

// ErrNotPrepared says that an identity's device, rules or routes are not in
// place; Prepare puts them there.
var ErrNotPrepared = errors.New("identity is not prepared")

// Mark is the ifalias by which a node of a cluster knows its own devices.
func Mark(cluster, node string) string { return "xdpha:" + cluster + ":" + node }

// Host is this node's network, as far as xdpha changes it. Its methods may be
// called from several goroutines.
type Host struct {
	log  *slog.Logger
	mark string
	nl   *netlink.Handle
	// rules is a socket for what the handle cannot say (see addRule).
	rules  map[int]*nl.SocketHandle
	batch  *batch // for many requests at once
	qdiscs qdiscs // the same handle; a fake in tests of what this kernel lacks
	ctl    int    // a datagram socket, for ethtool's ioctl
	ns     nsID   // the namespace that the sockets are in
	rcv    int    // receive buffer of subscriptions, in bytes; 0 is the system's default
	proc   string // where sysctls are

	// mu is held while devices, rules and routes are prepared or removed. A takeover of one
	// identity need not wait for another's: addresses come and go under the identity's own lock,
	// which is taken after mu, and known guards the maps for a moment.
	mu         sync.Mutex
	known      sync.Mutex
	identities map[string]prepared    // by this process
	devices    map[string]string      // device name -> identity, to see two names cut to one
	locks      map[string]*sync.Mutex // an identity's own
}

// lock takes an identity's own lock; the result gives it back.
func (h *Host) lock(name string) (unlock func()) {
	h.known.Lock()
	l := h.locks[name]
	if l == nil {
		l = new(sync.Mutex)
		h.locks[name] = l
	}
	h.known.Unlock()
	l.Lock()
	return l.Unlock
}

func (h *Host) recall(name string) (prepared, bool) {
	h.known.Lock()
	defer h.known.Unlock()
	p, known := h.identities[name]
	return p, known
}

func (h *Host) remember(p prepared) {
	h.known.Lock()
	defer h.known.Unlock()
	h.identities[p.Name], h.devices[DeviceName(p.Name)] = p, p.Name
}

func (h *Host) forget(dev string) {
	h.known.Lock()
	defer h.known.Unlock()
	delete(h.identities, h.devices[dev])
	delete(h.devices, dev)
}

// holder is the identity that has a device, if this process prepared it.
func (h *Host) holder(dev string) (name string, taken bool) {
	h.known.Lock()
	defer h.known.Unlock()
	name, taken = h.devices[dev]
	return name, taken
}

// New opens the sockets in the calling thread's network namespace. The mark
// (see [Mark]) tells own devices from all others.
func New(log *slog.Logger, mark string) (*Host, error) {
	if mark == "" || len(mark) > maxMark {
		return nil, fmt.Errorf("open host: mark %q must be 1 to %d bytes long", mark, maxMark)
	}
	ns, err := currentNS()
	if err != nil {
		return nil, fmt.Errorf("open host: %w", err)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := handle.SetSocketTimeout(socketTimeout); err != nil {
		handle.Close()
		return nil, fmt.Errorf("set netlink socket's time limit: %w", err)
	}
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("open netlink socket for rules: %w", err)
	}
	many, err := openBatch(socketTimeout)
	if err != nil {
		handle.Close()
		socket.Close()
		return nil, fmt.Errorf("open netlink socket for addresses: %w", err)
	}
	ctl, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		handle.Close()
		socket.Close()
		return nil, errors.Join(fmt.Errorf("open ethtool socket: %w", err), many.close())
	}
	return &Host{
		log: log, mark: mark, nl: handle, batch: many, qdiscs: handle, rules: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}, ctl: ctl, ns: ns, proc: "/proc/sys/net",
		identities: make(map[string]prepared), devices: make(map[string]string), locks: make(map[string]*sync.Mutex),
	}, nil
}

// Close closes the sockets. What was prepared stays in place.
func (h *Host) Close() error {
	h.nl.Close()
	h.rules[unix.NETLINK_ROUTE].Close()
	if err := errors.Join(unix.Close(h.ctl), h.batch.close()); err != nil {
		return fmt.Errorf("close sockets: %w", err)
	}
	return nil
}

// nsID names a network namespace.
type nsID struct{ dev, ino uint64 }

// currentNS is the calling thread's.
func currentNS() (nsID, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return nsID{}, fmt.Errorf("read network namespace of this thread: %w", err)
	}
	return nsID{dev: uint64(st.Dev), ino: st.Ino}, nil
}

// checkNS refuses to go on in another namespace than New's: /proc/sys/net and
// new sockets would mean other devices, perhaps of the same names.
func (h *Host) checkNS() error {
	ns, err := currentNS()
	if err != nil {
		return err
	}
	if ns != h.ns {
		return errors.New("called from a thread in another network namespace than host.New was; lock the thread and enter that one first")
	}
	return nil
}

// dump reads a table, again if it changed meanwhile, but not for ever.
func dump[T any](read func() (T, error)) (T, error) {
	var v T
	var err error
	for range dumpAttempts {
		if v, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	return v, fmt.Errorf("the table changed during each of %d readings: %w", dumpAttempts, err)
}
