// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// built holds the real binary, for those tests that need one.
var built string

func TestMain(m *testing.M) {
	status := m.Run()
	if built != "" {
		os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(status)
}

// program builds the real binary, once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "xdpha-node-test-")
	if err != nil {
		return "", fmt.Errorf("make directory for the program: %w", err)
	}
	built = filepath.Join(dir, "xdpha")
	build := exec.Command("go", "build", "-o", built, "./ctl/xdpha")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w: %s", err, out)
	}
	return built, nil
})

// patience bounds every wait; a machine with all CPUs busy needs some.
const patience = 30 * time.Second

// atHome is who owns what when all is well.
var atHome = map[string]string{"files": lab.Serv1, "mail": lab.Serv2}

// everythingOn is who owns what with one node left.
func everythingOn(node string) map[string]string {
	return map[string]string{"files": node, "mail": node}
}

// cluster is a lab with the real program on both nodes.
type cluster struct {
	*lab.Lab
	ahead bool // addresses are kept on the device of who does not own them too
	api   map[string]*control.Client
}

// newCluster builds the lab; nothing runs yet.
func newCluster(t *testing.T, s lab.Scene) *cluster {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	c := &cluster{ahead: s.Staging == "ahead", api: map[string]*control.Client{}}
	executable, err := program()
	must(t, err)
	l, err := lab.New(context.Background(), lab.Options{Executable: executable})
	must(t, err)
	c.Lab = l
	t.Cleanup(func() {
		for _, api := range c.api {
			api.Close()
		}
		if t.Failed() {
			c.logs(t)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, n := range l.Nodes {
		c.api[n.Name] = control.NewClient(n.RunDir)
	}
	must(t, l.WriteConfig(s))
	return c
}

// running is a cluster at home. A shared machine stands still for milliseconds now and then: a gate
// that is closed by that is not what these tests are about.
func running(t *testing.T, s lab.Scene, args ...string) *cluster {
	t.Helper()
	if s.Profile == "" && s.Probe == "" {
		s.Profile = "cautious"
	}
	c := newCluster(t, s)
	for _, n := range c.Nodes {
		must(t, n.Start(args...))
	}
	c.awaitSettled(t, atHome)
	return c
}

func (c *cluster) logs(t *testing.T) {
	for _, n := range c.Nodes {
		t.Logf("output of %s:\n%s", n.Name, n.Tail(60))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await returns when the state is as wanted: when f has no complaint any more.
func await(t *testing.T, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not after %v: %v", what, patience, err)
		}
	}
}

// stays watches for a while that something which must not happen does not.
func stays(t *testing.T, what string, d time.Duration, f func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(d); ; {
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

func (c *cluster) status(node string) (control.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return c.api[node].Status(ctx)
}

func (c *cluster) mustStatus(t *testing.T, node string) control.Status {
	t.Helper()
	s, err := c.status(node)
	must(t, err)
	return s
}

// identity finds an identity in a node's status.
func identity(s control.Status, name string) (control.Identity, error) {
	for _, id := range s.Identities {
		if id.Name == name {
			return id, nil
		}
	}
	return control.Identity{}, fmt.Errorf("%s does not know identity %s", s.Node, name)
}

func (c *cluster) generation(t *testing.T, node, name string) uint64 {
	t.Helper()
	id, err := identity(c.mustStatus(t, node), name)
	must(t, err)
	return id.Generation
}

// serves tells whether a node owns exactly those identities that it should, with all that belongs to it.
func (c *cluster) serves(node string, owners map[string]string) error {
	s, err := c.status(node)
	if err != nil {
		return err
	}
	for name, owner := range owners {
		id, err := identity(s, name)
		if err != nil {
			return err
		}
		addresses, err := c.addresses(node, name)
		if err != nil {
			return err
		}
		here := owner == node
		switch {
		case id.Owner != owner:
			return fmt.Errorf("%s says that %q owns %s, want %q", node, id.Owner, name, owner)
		case here != (id.Gate == control.GateOpen):
			return fmt.Errorf("%s has the gate of %s %s: %s", node, name, id.Gate, id.Reason)
		case here != (len(addresses) > 0) && (here || !c.ahead):
			return fmt.Errorf("%s has of %s the addresses %v", node, name, addresses)
		case here != c.Node(node).ServiceRuns(name+"d"):
			return fmt.Errorf("on %s the service of %s runs: %v", node, name, !here)
		}
	}
	if !c.Node(node).ServiceRuns("dns") {
		return fmt.Errorf("on %s the concurrent service does not run", node)
	}
	return nil
}

// settled tells whether both nodes agree on the owners, and each covers the other.
func (c *cluster) settled(owners map[string]string) error {
	gens := map[string]uint64{}
	for _, n := range c.Nodes {
		if err := c.serves(n.Name, owners); err != nil {
			return err
		}
		s, err := c.status(n.Name)
		if err != nil {
			return err
		}
		if s.Peer.State != control.PeerUp {
			return fmt.Errorf("%s sees its peer %s", n.Name, s.Peer.State)
		}
		for _, l := range s.Links {
			if !l.Up {
				return fmt.Errorf("%s does not hear link %s", n.Name, l.Name)
			}
		}
		for _, id := range s.Identities {
			if id.Owner != n.Name && !id.Armed {
				return fmt.Errorf("%s is not armed for %s", n.Name, id.Name)
			}
			if g, known := gens[id.Name]; known && g != id.Generation {
				return fmt.Errorf("%s is of generation %d at one node and %d at the other", id.Name, g, id.Generation)
			}
			gens[id.Name] = id.Generation
		}
	}
	return nil
}

func (c *cluster) awaitSettled(t *testing.T, owners map[string]string) {
	t.Helper()
	await(t, fmt.Sprintf("both nodes run with %v", owners), func() error { return c.settled(owners) })
}

// bringHome gives everything back.
func (c *cluster) bringHome(t *testing.T) {
	t.Helper()
	await(t, "give-back", func() error {
		if c.settled(atHome) == nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.api[lab.Serv1].Giveback(ctx, ""); err != nil {
			return err
		}
		return c.settled(atHome)
	})
}

// within runs f with a time limit.
func within(t *testing.T, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	must(t, f(ctx))
}

// addresses are those on an identity's device at a node.
func (c *cluster) addresses(node, name string) (list []string, err error) {
	err = c.Do(node, func() error {
		dev, err := netlink.LinkByName("xd-" + name)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(dev, netlink.FAMILY_ALL)
		for _, a := range addrs {
			list = append(list, a.IPNet.String())
		}
		return err
	})
	return list, err
}

// hasEvent tells whether a node has told of a kind of event (about an identity, if one is named) after a number.
func (c *cluster) hasEvent(node string, since uint64, kind, about string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	found := false
	err := c.api[node].Events(ctx, since, false, func(e control.Event) error {
		found = found || e.Kind == kind && (about == "" || e.Identity == about || strings.Contains(e.Text, about))
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("%s has told of no %s %s", node, kind, about)
	}
	return err
}

// lastEvent is the number of a node's last event.
func (c *cluster) lastEvent(t *testing.T, node string) (seq uint64) {
	t.Helper()
	within(t, func(ctx context.Context) error {
		return c.api[node].Events(ctx, 0, false, func(e control.Event) error { seq = e.Seq; return nil })
	})
	return seq
}

// metrics scrapes a node, from inside its namespace.
func (c *cluster) metrics(node string) (map[string]float64, error) {
	var conn net.Conn
	err := c.Do(node, func() (err error) {
		conn, err = net.DialTimeout("tcp", "127.0.0.1:9640", 2*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		name, value, ok := strings.Cut(sc.Text(), "} ")
		if !ok {
			name, value, _ = strings.Cut(sc.Text(), " ")
		} else {
			name += "}"
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = v
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no metric at all")
	}
	return all, nil
}

func (c *cluster) mustMetrics(t *testing.T, node string) map[string]float64 {
	t.Helper()
	m, err := c.metrics(node)
	must(t, err)
	return m
}

// frames sums xdpha_frames_total over what has all these labels, as `name="value"`.
func frames(m map[string]float64, labels ...string) (sum float64) {
	for name, v := range m {
		if strings.HasPrefix(name, "xdpha_frames_total{") &&
			!slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(name, l) }) {
			sum += v
		}
	}
	return sum
}

// carrier is the port behind which a node may use an identity's MAC.
func carrier(node string, id lab.Identity) lab.Role {
	if id.Home == node {
		return lab.LAN
	}
	return lab.Spare
}

// watch is everything that is looked at while something happens: a client that
// asks the identity without a pause, the nodes' own addresses, the judge, the
// ports where the identity must not show up, what the switches learn, and the
// client's ARP entry.
type watch struct {
	t     *testing.T
	c     *cluster
	id    lab.Identity
	index int
	probe *lab.Prober
	own   map[string]*lab.Prober
	ports map[string]*lab.Capture // where nothing of it may come in

	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
	mu   sync.Mutex
	bad  map[string]int // what went wrong, and how often
	seen []lab.JudgeRecord
}

// watch begins. The nodes in own must answer at their own addresses all the time.
func (c *cluster) watch(t *testing.T, id lab.Identity, own ...string) *watch {
	t.Helper()
	w := &watch{t: t, c: c, id: id, index: slices.Index(lab.Identities[:], id), own: map[string]*lab.Prober{}, ports: map[string]*lab.Capture{}, stop: make(chan struct{}), bad: map[string]int{}}
	for _, p := range lab.Ports {
		if !p.Server() || p.Role == carrier(p.Node, id) {
			continue
		}
		capture, err := c.Capture(p.Switch, p.Name())
		must(t, err)
		w.ports[p.Name()] = capture
		t.Cleanup(func() { _, _ = capture.Stop() }) // end has stopped it, unless the test failed before
	}
	must(t, c.Judge(true))
	_, err := c.JudgeTrail() // what came before does not count
	must(t, err)
	w.wg.Go(w.look)
	t.Cleanup(w.halt)
	within(t, func(ctx context.Context) (err error) {
		for _, node := range own {
			addr := map[string]string{lab.Serv1: "192.0.2.11", lab.Serv2: "192.0.2.12"}[node]
			p, err := c.StartProber(ctx, mustAddr(addr), lab.ProbeOptions{Period: time.Millisecond})
			if err != nil {
				return err
			}
			w.own[node] = p
		}
		if w.probe, err = c.StartProber(ctx, id.Addr, lab.ProbeOptions{}); err != nil {
			return err
		}
		return w.probe.AwaitAnswer(ctx, "", 0)
	})
	return w
}

func (w *watch) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad[fmt.Sprintf(format, args...)]++
}

// look samples what has no record of its own.
func (w *watch) look() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var first net.HardwareAddr
	for n := 0; ; n++ {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		for _, sw := range []string{lab.Sw1, lab.Sw2} {
			if ports, err := w.c.FDB(sw, w.id.MAC); err == nil && len(ports) > 1 {
				w.complain("%s has the MAC behind %v", sw, ports)
			}
		}
		e, err := w.c.ARP(w.id.Addr)
		switch {
		case err != nil || e.MAC == nil:
		case first == nil:
			first = e.MAC
		case e.MAC.String() != first.String():
			w.complain("the client's ARP entry became %s", e.MAC)
		}
		if n%20 == 0 {
			w.drain()
		}
	}
}

func (w *watch) drain() {
	records, err := w.c.JudgeTrail()
	if err != nil {
		w.complain("%v", err)
	}
	w.seen = append(w.seen, records...)
}

// halt ends what runs beside the test; it may be called again.
func (w *watch) halt() {
	w.once.Do(func() {
		close(w.stop)
		w.wg.Wait()
		if w.probe != nil {
			w.probe.Stop()
		}
		for _, p := range w.own {
			p.Stop()
		}
	})
}

// awaitAnswerBy returns when a node answers the client from now on.
func (w *watch) awaitAnswerBy(node string) {
	w.t.Helper()
	within(w.t, func(ctx context.Context) error { return w.probe.AwaitAnswer(ctx, node, lab.NowNs()) })
}

// end stops looking and holds what must hold whatever happened: nobody answered
// beside the owner, nothing of the identity left by another NIC, its MAC did not
// change. It returns what the client saw.
func (w *watch) end() lab.Summary {
	t := w.t
	t.Helper()
	sum := lab.Analyze(w.probe.Stop(), lab.Window{})
	w.halt()
	w.drain()
	must(t, w.c.Judge(false))
	for what, n := range w.bad {
		t.Errorf("%s (seen %d times)", what, n)
	}
	if w.probe.MAC != w.id.MAC {
		t.Errorf("the client resolved %x, want %x", w.probe.MAC, w.id.MAC)
	}
	if sum.DualAnswers != 0 || sum.Duplicates != 0 {
		t.Errorf("the client got %d answers of a second node and %d twice", sum.DualAnswers, sum.Duplicates)
	}
	if n := lab.Overlap(w.seen, w.index); n != 0 {
		t.Errorf("%d frames of the identity came from a node after another had taken over", n)
	}
	if len(w.seen) == 0 {
		t.Error("the judge saw nothing")
	}
	for _, r := range w.seen {
		if r.Identity == w.index && r.Port.Role != carrier(r.Port.Node, w.id) {
			t.Errorf("the identity's MAC was used behind %s", r.Port.Name())
			break
		}
	}
	for port, capture := range w.ports {
		all, err := capture.Stop()
		must(t, err)
		for _, f := range all {
			mine := f.IPv4 != nil && f.IPv4.Src == w.id.Addr || f.ARP != nil && f.ARP.SenderIP == w.id.Addr || [6]byte(f.Src) == w.id.MAC
			if mine && !f.Outgoing {
				t.Errorf("behind %s, where it does not belong, the identity sent % x", port, f.Raw[:min(len(f.Raw), 42)])
				break
			}
		}
	}
	for node, p := range w.own {
		if s := lab.Analyze(p.Stop(), lab.Window{}); s.Lost != 0 || s.Sent == 0 {
			t.Errorf("%s left %d of %d probes of its own address unanswered, the longest silence %v", node, s.Lost, s.Sent, time.Duration(s.OutageNs))
		}
	}
	if !sum.Restored {
		t.Errorf("the client is not served at the end: %+v", sum)
	}
	return sum
}

// endLossless ends a watch in which the client must not have noticed anything.
func (w *watch) endLossless() {
	w.t.Helper()
	if sum := w.end(); sum.Lost != 0 {
		w.t.Errorf("the client lost %d of %d probes, the longest silence %v", sum.Lost, sum.Sent, time.Duration(sum.OutageNs))
	}
}

// host is all that the daemon may change of a namespace, as text.
func (c *cluster) host(t *testing.T, node string) string {
	t.Helper()
	var b strings.Builder
	must(t, c.Do(node, func() error { return describeHost(&b) }))
	return b.String()
}

func describeHost(b *strings.Builder) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		a := l.Attrs()
		fmt.Fprintln(b, "link", a.Index, a.Name, l.Type(), a.Flags, a.HardwareAddr, a.Alias, a.MTU, "promisc", a.Promisc, "xdp", a.Xdp != nil && a.Xdp.Attached)
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, x := range addrs {
			fmt.Fprintln(b, " address", x.IPNet, x.Flags, x.Scope)
		}
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			fmt.Fprintln(b, " qdisc", q)
		}
		for _, parent := range []uint32{netlink.HANDLE_MIN_EGRESS, netlink.HANDLE_MIN_INGRESS} {
			filters, err := netlink.FilterList(l, parent)
			if err == nil && len(filters) > 0 {
				fmt.Fprintln(b, " filters", len(filters))
			}
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXEgress, ebpf.AttachTCXIngress} {
			q, err := link.QueryPrograms(link.QueryOptions{Target: a.Index, Attach: at})
			if err == nil && len(q.Programs) > 0 {
				fmt.Fprintln(b, " tcx", at, len(q.Programs))
			}
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			fmt.Fprintln(b, "rule", family, r.Priority, r.Src, r.Table, r.SuppressPrefixlen)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			fmt.Fprintln(b, "route", family, r)
		}
	}
	return nil
}

// sysctls are the namespace's own, without those of devices that xdpha made.
func (c *cluster) sysctls(t *testing.T, node string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, c.Do(node, func() error {
		// By the thread: /proc/sys/net is of the namespace of whoever opens it.
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			dev := filepath.Base(filepath.Dir(path))
			if d.IsDir() || strings.HasPrefix(dev, "xd-") || strings.HasPrefix(dev, "xdtick") {
				return nil
			}
			// Some are for writing only, some want a value first; what can be read is compared.
			if b, err := os.ReadFile(path); err == nil {
				all[path] = string(b)
			}
			return nil
		})
	}))
	if len(all) < 100 {
		t.Fatalf("only %d sysctls could be read", len(all))
	}
	return all
}

func sameSysctls(t *testing.T, when string, before, after map[string]string) {
	t.Helper()
	if maps.Equal(before, after) {
		return
	}
	for k, v := range before {
		if after[k] != v {
			t.Errorf("%s: %s was %q, is %q", when, k, v, after[k])
		}
	}
	for k := range after {
		if _, known := before[k]; !known {
			t.Errorf("%s: %s is new", when, k)
		}
	}
}

// pins lists what a node has pinned.
func (c *cluster) pins(t *testing.T, node string) (list []string) {
	t.Helper()
	dir := c.Node(node).PinDir
	paths, err := filepath.Glob(dir + "*/*")
	must(t, err)
	dirs, err := filepath.Glob(dir + "*")
	must(t, err)
	return append(dirs, paths...)
}
