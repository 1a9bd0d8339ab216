// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/line"
	"github.com/xdpha/xdpha/pkg/privilege"
)

// asNode makes a copy of this program one node.
const asNode = "XDPHA_MIRROR_TEST_NODE"

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == PipeCommand:
		if err := Pipe(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(asNode) != "":
		serveNode()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root: network and mount namespaces")
	}
}

// Node is what the test asks of a node: a process in a network and a mount namespace of its own.
type Node struct {
	m    *Manager
	line *line.Line
	stop func()
	open []net.Conn
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

func serveNode() {
	s := rpc.NewServer()
	if err := s.Register(&Node{}); err != nil {
		panic(err)
	}
	s.ServeConn(stdio{os.Stdin, os.Stdout})
}

// Nothing is where a call has nothing to say.
type Nothing struct{}

// Mounts are directories that are put somewhere else: both nodes have the same paths.
type Mounts map[string]string

func (n *Node) Mount(m Mounts, _ *Nothing) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for at, from := range m {
		if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", from, at, err)
		}
	}
	return nil
}

func (n *Node) Unmount(at string, _ *Nothing) error { return unix.Unmount(at, unix.MNT_DETACH) }

// Cables makes both and gives the other process its ends.
func (n *Node) Cables(pid int, _ *Nothing) error {
	for _, name := range []string{"crossover", "lan"} {
		far := name + "-far"
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: far}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		l, err := netlink.LinkByName(far)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsPid(l, pid); err != nil {
			return err
		}
	}
	return nil
}

// Addresses are of a node's ends, by their suffix.
type Addresses struct {
	Suffix         string
	Crossover, Lan string
}

func (n *Node) Up(a Addresses, _ *Nothing) error {
	for name, addr := range map[string]string{"lo": "127.0.0.1/8", "crossover" + a.Suffix: a.Crossover, "lan" + a.Suffix: a.Lan} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "lo" {
			err = netlink.LinkSetUp(l)
		} else if ip, perr := netlink.ParseAddr(addr); perr != nil {
			err = perr
		} else {
			err = errors.Join(netlink.AddrAdd(l, ip), netlink.LinkSetUp(l))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Cable says what becomes of one end.
type Cable struct {
	Name string
	Up   bool
}

func (n *Node) Cable(c Cable, _ *Nothing) error {
	l, err := netlink.LinkByName(c.Name)
	if err != nil {
		return err
	}
	if c.Up {
		return netlink.LinkSetUp(l)
	}
	return netlink.LinkSetDown(l)
}

// Start is a daemon's.
type Start struct {
	Config   config.Config
	StateDir string
}

func (n *Node) Start(s Start, _ *Nothing) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", s.Config.Nodes[s.Config.Self].Name)
	if n.line, err = line.New(&s.Config, log); err != nil {
		return err
	}
	n.m, err = New(Options{
		Config: &s.Config, Line: n.line, StateDir: s.StateDir, RunDir: s.StateDir, Program: os.Args[0],
		Log: log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.line.Run(ctx)
		n.m.Run(ctx)
	}()
	n.stop = func() {
		cancel()
		<-ended
	}
	return n.listens(&s.Config)
}

// listens waits until the node takes connections on both links: the other one is refused before that.
func (n *Node) listens(cfg *config.Config) error {
	self := cfg.Nodes[cfg.Self]
	for _, own := range []netip.Prefix{self.CrossAddr, self.LanAddr} {
		to := netip.AddrPortFrom(own.Addr(), line.Port).String()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			c, err := net.Dial("tcp4", to)
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("not within 30 s: the node listens: %w", err)
			}
		}
	}
	return nil
}

func (n *Node) Stop(Nothing, *Nothing) error {
	n.stop()
	return nil
}

func (n *Node) Keys(keys []config.Key, _ *Nothing) error {
	cfg := *n.m.Config
	cfg.Keys = keys
	return n.line.UseKeys(&cfg)
}

// Told is what Follow is told.
type Told struct {
	Generation uint64
	Role       Role
}

func (n *Node) Follow(f Told, _ *Nothing) error { return n.m.Follow("files", f.Generation, f.Role) }

func (n *Node) Alone(generation uint64, _ *Nothing) error { return n.m.Alone("files", generation) }

func (n *Node) Sync(limit time.Duration, out *Stats) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	*out, err = n.m.SyncNow(ctx, "data")
	return err
}

func (n *Node) Estimate(Nothing, out *Stats) (err error) {
	*out, err = n.m.Estimate(context.Background(), "data")
	return err
}

func (n *Node) AskPeer(Nothing, *Nothing) error { return n.m.AskPeer(context.Background(), "files") }

func (n *Node) State(_ Nothing, out *State) error {
	*out = n.m.States()[0]
	return nil
}

// node is one of the two, as the test has it.
type node struct {
	t     testing.TB
	cmd   *exec.Cmd
	rpc   *rpc.Client
	cfg   config.Config
	data  string // what both nodes have at the same path
	state string
}

func (n *node) try(method string, in, out any) error { return n.rpc.Call("Node."+method, in, out) }

func (n *node) do(method string, in any) {
	n.t.Helper()
	if err := n.try(method, in, &Nothing{}); err != nil {
		n.t.Fatalf("%s: %v", method, err)
	}
}

func (n *node) follow(generation uint64, role Role) {
	n.t.Helper()
	n.do("Follow", Told{generation, role})
}

func (n *node) sync() Stats {
	n.t.Helper()
	var s Stats
	if err := n.try("Sync", time.Minute, &s); err != nil {
		n.t.Fatalf("sync: %v", err)
	}
	return s
}

// peerIsNewer asks the peer.
func (n *node) peerIsNewer() bool {
	n.t.Helper()
	n.do("AskPeer", Nothing{})
	return !n.view().Whole
}

func (n *node) view() (s State) {
	n.t.Helper()
	if err := n.try("State", Nothing{}, &s); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// rig is a pair of nodes and the set "data" of the identity "files".
type rig struct {
	a, b    *node
	path    string // of the set, on both
	dir     string
	user    uint32 // of the daemons; 0: root
	program string
}

// tests' secrets.
func key(n byte) config.Key {
	return config.Key{K0: uint64(n), K1: uint64(n), ID: n, Line: sha256.Sum256([]byte{n})}
}

func newRig(t testing.TB, set config.Mirror) *rig {
	t.Helper()
	needRoot(t)
	return (&rig{dir: t.TempDir(), program: os.Args[0]}).make(t, set)
}

// daemonUser is nobody's number.
const daemonUser = 64999

// newUserRig is a pair whose daemons run as a user of their own with the capabilities that the unit
// grants, and two that the test's own part in them needs. They come from the file, so that children
// get what they are given only.
func newUserRig(t testing.TB, set config.Mirror) *rig {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("", "xdpha-mirror-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{dir: dir, user: daemonUser, program: filepath.Join(dir, "program")}
	run(t, "cp", os.Args[0], r.program)
	caps := []string{"cap_net_admin", "cap_sys_admin"}
	for _, c := range privilege.Mirror {
		caps = append(caps, strings.ToLower(c.Name))
	}
	run(t, "setcap", strings.Join(caps, ",")+"+ep", r.program)
	return r.make(t, set)
}

func (r *rig) make(t testing.TB, set config.Mirror) *rig {
	t.Helper()
	r.path = filepath.Join(r.dir, "srv")
	mustMkdir(t, r.path)
	set.Name, set.Paths = "data", append([]string{r.path}, set.Paths...)
	if set.Every == 0 {
		set.Every = time.Hour
	}
	cfg := config.Config{
		Cluster: "test", Keys: []config.Key{key(1)}, Mirrors: []config.Mirror{set},
		Identities: []config.Identity{{Name: "files", Mirror: []string{"data"}}},
		Nodes: []config.Node{
			{Name: "serv1", CrossAddr: netip.MustParsePrefix("192.168.111.1/24"), LanAddr: netip.MustParsePrefix("192.0.2.11/24")},
			{Name: "serv2", CrossAddr: netip.MustParsePrefix("192.168.111.2/24"), LanAddr: netip.MustParsePrefix("192.0.2.12/24")},
		},
	}
	r.a, r.b = r.node(t, cfg, 0), r.node(t, cfg, 1)
	r.a.do("Cables", r.b.cmd.Process.Pid)
	for i, n := range []*node{r.a, r.b} {
		n.do("Up", Addresses{[]string{"", "-far"}[i], cfg.Nodes[i].CrossAddr.String(), cfg.Nodes[i].LanAddr.String()})
		n.start()
	}
	return r
}

func (r *rig) node(t testing.TB, cfg config.Config, self int) *node {
	cfg.Self = self
	home := filepath.Join(r.dir, cfg.Nodes[self].Name)
	n := &node{t: t, cfg: cfg, data: filepath.Join(home, "data"), state: filepath.Join(home, "state")}
	mustMkdir(t, n.data)
	mustMkdir(t, n.state)
	n.cmd = exec.Command(r.program)
	n.cmd.Env = append(os.Environ(), asNode+"=1")
	n.cmd.Stderr = testLog{t}
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if r.user != 0 {
		n.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.user, Gid: r.user}
		if err := os.Chown(n.state, int(r.user), int(r.user)); err != nil {
			t.Fatal(err)
		}
	}
	in, err := n.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.rpc = rpc.NewClient(stdio{out, in})
	t.Cleanup(func() {
		n.rpc.Close()
		_ = n.cmd.Wait()
	})
	n.do("Mount", Mounts{r.path: n.data})
	return n
}

func (n *node) start() { n.t.Helper(); n.do("Start", Start{n.cfg, n.state}) }

// restart is a daemon's end and its successor's start.
func (n *node) restart() {
	n.t.Helper()
	n.do("Stop", Nothing{})
	n.start()
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

func mustMkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (n *node) write(name, content string) {
	n.t.Helper()
	path := filepath.Join(n.data, name)
	mustMkdir(n.t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read(name string) string {
	b, err := os.ReadFile(filepath.Join(n.data, name))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(b)
}

func (n *node) has(name string) bool {
	_, err := os.Lstat(filepath.Join(n.data, name))
	return err == nil
}

// eventually waits for what another process brings about, and says what was waited for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// Talk is a stranger's part of a connection.
type Talk struct {
	From, To string
	Says     []byte
	Times    int // connections that stay open
}

// Talk leaves connections open and returns what the last one was told before it was closed.
func (n *Node) Talk(t Talk, heard *[]byte) error {
	for range t.Times {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(t.From)}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp4", t.To)
		if err != nil {
			return err
		}
		n.open = append(n.open, c)
		_, _ = c.Write(t.Says) // the other end may have heard enough
	}
	last := n.open[len(n.open)-1]
	if err := last.SetReadDeadline(time.Now().Add(4 * line.GreetTime)); err != nil {
		return err
	}
	b, err := io.ReadAll(last)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the connection stays open")
	}
	*heard = b // a reset is an end, too
	return nil
}

// Address gives the node's end of the lan one more address.
func (n *Node) Address(a string, _ *Nothing) error {
	l, err := netlink.LinkByName("lan")
	if err != nil {
		return err
	}
	ip, err := netlink.ParseAddr(a)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, ip)
}

// SignalRsync gives a signal to all that the node has started.
func (n *Node) SignalRsync(sig syscall.Signal, _ *Nothing) error {
	threads, err := filepath.Glob("/proc/self/task/[0-9]*/children")
	if err != nil {
		return err
	}
	given := false
	for _, name := range threads {
		b, _ := os.ReadFile(name) // nothing of a thread that has ended
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && syscall.Kill(-pid, sig) == nil {
				given = true
			}
		}
	}
	if !given {
		return errors.New("nothing was started")
	}
	return nil
}
