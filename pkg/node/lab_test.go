// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

	"github.com/vishvananda/netlink"

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
	build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0") // as make build
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w: %s", err, out)
	}
	return built, nil
})

// patience bounds every wait; a machine with all CPUs busy needs some.
const patience = 30 * time.Second

// updelay is short: tests wait for what is carried where it belongs.
const updelay = "500ms"

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

// newCluster builds the lab of a pair; nothing runs yet.
func newCluster(t *testing.T, s lab.Scene) *cluster { return newClusterOf(t, 2, s) }

func newClusterOf(t *testing.T, nodes int, s lab.Scene) *cluster {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	if s.UpDelay == "" {
		s.UpDelay = updelay
	}
	c := &cluster{ahead: s.Staging == "ahead", api: map[string]*control.Client{}}
	executable, err := program()
	must(t, err)
	l, err := lab.New(context.Background(), lab.Options{Executable: executable, Nodes: nodes})
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
	c.bringHome(t) // one node may have come to run much later than the other
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
	var s control.Status
	within(t, func(ctx context.Context) (err error) { s, err = c.api[node].Status(ctx); return err })
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
		for _, p := range s.Peers {
			if p.State != control.PeerUp {
				return fmt.Errorf("%s sees %s %s", n.Name, p.Name, p.State)
			}
		}
		for _, l := range s.Links {
			if !l.Up {
				return fmt.Errorf("%s does not hear link %s", n.Name, l.Name)
			}
		}
		for _, id := range s.Identities {
			if id.Owner != n.Name && !id.Armed && (id.Home == n.Name || slices.Contains(id.Prefer, n.Name)) {
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

// handOver has a node hand an identity over. It is asked until it agrees: it refuses as long as the target has
// not said that it is prepared, which may be later than the target's own status says so.
func (c *cluster) handOver(t *testing.T, at, name, to string) {
	t.Helper()
	await(t, fmt.Sprintf("%s hands %s over", at, name), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return c.api[at].Move(ctx, name, to, false)
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
		err = notTold{node, kind, about}
	}
	return err
}

type notTold struct{ node, kind, about string }

func (e notTold) Error() string {
	return fmt.Sprintf("%s has told of no %s %s", e.node, e.kind, e.about)
}

// awaitEvent returns when a node has told of an event: it may tell after it shows.
func (c *cluster) awaitEvent(t *testing.T, node string, since uint64, kind, about string) {
	t.Helper()
	await(t, "the event", func() error { return c.hasEvent(node, since, kind, about) })
}

// hasTold is hasEvent for what must not be: a node that does not answer in time has said nothing yet.
func (c *cluster) hasTold(t *testing.T, node string, since uint64, kind string) (told bool) {
	t.Helper()
	await(t, node+" answers", func() error {
		err := c.hasEvent(node, since, kind, "")
		told = err == nil
		if errors.As(err, &notTold{}) {
			return nil
		}
		return err
	})
	return told
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
		conn, err = net.DialTimeout("tcp", "127.0.0.1:9640", patience)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
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
