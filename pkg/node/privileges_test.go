// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/bpf"
	"github.com/xdpha/xdpha/pkg/announce"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/host"
	"github.com/xdpha/xdpha/pkg/lab"
	"github.com/xdpha/xdpha/pkg/privilege"
)

// daemonUID is a user that no system has.
const daemonUID = 64999

// unprivileged is a lab whose files belong to another user than root, and who can reach them.
func unprivileged(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, lab.Scene{Profile: "cautious"})
	executable, err := program()
	must(t, err)
	for _, dir := range []string{lab.Root, filepath.Dir(executable)} { // searched, not read
		must(t, os.Chmod(dir, 0o711))
	}
	must(t, filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(c.Dir, "ns") {
			return fs.SkipDir
		}
		return os.Chown(path, daemonUID, daemonUID)
	}))
	return c
}

// startWith starts a node's daemon as that user, with these capabilities and no other, as a unit does.
func (c *cluster) startWith(t *testing.T, n *lab.Node, caps []privilege.Capability) {
	t.Helper()
	list := "-all"
	for _, p := range caps {
		list += ",+" + strings.ToLower(strings.TrimPrefix(p.Name, "CAP_"))
	}
	id := strconv.Itoa(daemonUID)
	executable, err := program()
	must(t, err)
	argv := []string{"--reuid", id, "--regid", id, "--clear-groups", "--no-new-privs", "--pdeathsig", "KILL",
		"--inh-caps", list, "--ambient-caps", list, "--bounding-set", list, executable}
	must(t, n.StartProgram("/usr/bin/setpriv", append(append(argv, n.Flags()...), "run")...))
}

func TestThePairRunsAsAUserWithTheListedCapabilitiesAlone(t *testing.T) {
	c := unprivileged(t)
	for _, n := range c.Nodes {
		c.startWith(t, n, privilege.Needed)
	}
	c.bringHome(t)
	var want uint64
	for _, p := range privilege.Needed {
		want |= 1 << p.Bit
	}
	for _, n := range c.Nodes {
		for key, w := range map[string]string{
			"Uid": strconv.Itoa(daemonUID), "CapEff": fmt.Sprintf("%016x", want), "CapBnd": fmt.Sprintf("%016x", want),
			"CapAmb": "0000000000000000", "NoNewPrivs": "1",
		} {
			if got := procStatus(t, n.PID(), key); got != w {
				t.Errorf("%s of %s is %s, want %s", key, n.Name, got, w)
			}
		}
		var memory unix.Stat_t
		must(t, unix.Stat(fmt.Sprintf("/proc/%d/mem", n.PID()), &memory))
		if memory.Uid != 0 { // the kernel's sign of a process that cannot be dumped
			t.Errorf("the memory of %s can be read by user %d and dumped", n.Name, memory.Uid)
		}
		// A thread of the daemon's whose ambient set was forgotten would give it to a child.
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", n.PID()))
		must(t, err)
		for _, path := range threads {
			if b, err := os.ReadFile(path); err == nil && !bytes.Contains(b, []byte("CapAmb:\t0000000000000000")) {
				t.Errorf("%s has ambient capabilities", path)
			}
		}
	}
	c.greets(t, lab.Serv1, lab.Serv2)
	clients := c.idleAtHome(t)
	c.knowClients(t, len(clients), lab.Serv1, lab.Serv2)
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	c.handOver(t, lab.Serv1, "files", "")
	c.noticed(t, lab.Serv2, clients)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	w.awaitAnswerBy(lab.Serv2)
	w.end()
}

func procStatus(t *testing.T, pid int, key string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Fields(value)[0]
		}
	}
	t.Fatalf("no %s in the status of %d", key, pid)
	return ""
}

func TestEachMissingCapabilityIsNamedWithWhatItIsForAndWhatToDo(t *testing.T) {
	c := unprivileged(t)
	n := c.Nodes[0]
	for i, dropped := range privilege.Needed {
		c.startWith(t, n, slices.Delete(slices.Clone(privilege.Needed), i, i+1))
		await(t, "the daemon ends without "+dropped.Name, func() error {
			if n.Alive() {
				return fmt.Errorf("it runs")
			}
			return nil
		})
		said := n.Tail(1)
		want := "xdpha: missing " + dropped.Name + ", which is needed " + dropped.Why + ": run as root, or give the unit AmbientCapabilities=" + dropped.Name + " "
		if !strings.HasPrefix(said, want) {
			t.Errorf("without %s it says %q, want %q", dropped.Name, said, want)
		}
	}
}

// TestEveryListedCapabilityIsNeeded does, without one capability after the other, what it is listed for.
func TestEveryListedCapabilityIsNeeded(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	load := func() error {
		spec, err := bpf.LoadXdpha()
		if err != nil {
			return err
		}
		var objs bpf.XdphaObjects
		defer objs.Close()
		return spec.LoadAndAssign(&objs, nil)
	}
	announcer := func() error {
		a := announce.New(slog.New(slog.DiscardHandler))
		defer a.Close()
		return a.Prepare("lo")
	}
	devices := func() error {
		h, err := host.New(slog.New(slog.DiscardHandler), "privileges")
		if err != nil {
			return err
		}
		defer h.Close()
		_, _, err = h.EnsureTickPair("xdtick")
		return err
	}
	uses := map[string]func() error{"CAP_BPF": load, "CAP_PERFMON": load, "CAP_NET_ADMIN": devices, "CAP_NET_RAW": announcer}
	for _, c := range privilege.Needed {
		t.Run(c.Name, func(t *testing.T) {
			use := uses[c.Name]
			if use == nil {
				t.Fatal("listed, and this test knows no use of it")
			}
			if err := inOwnNetwork(privilege.Needed, use); err != nil {
				t.Errorf("with all that are listed: %v", err)
			}
			i := slices.Index(privilege.Needed, c)
			if err := inOwnNetwork(slices.Delete(slices.Clone(privilege.Needed), i, i+1), use); err == nil {
				t.Error("it works without")
			}
		})
	}
}

// inOwnNetwork runs f in a network namespace of its own, on a thread with these capabilities alone.
func inOwnNetwork(caps []privilege.Capability, f func() error) (err error) {
	host.OnOwnThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		for _, c := range caps {
			data[c.Bit/32].Effective |= 1 << (c.Bit % 32)
			data[c.Bit/32].Permitted |= 1 << (c.Bit % 32)
		}
		if err = unix.Capset(&hdr, &data[0]); err != nil {
			return
		}
		err = f()
	})
	return err
}

// TestTheSecretIsNowhereToBeSeen runs a pair with a key that can be recognised, lets things go wrong,
// and looks at all that a daemon leaves or shows.
func TestTheSecretIsNowhereToBeSeen(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious"})
	secret := filepath.Join(c.Dir, "secret")
	raw := bytes.Repeat([]byte{0x5e, 0xc2, 0xe7, 0xa9}, 8)
	must(t, os.WriteFile(secret, []byte(hex.EncodeToString(raw)+"\n"), 0o600))
	cfg, err := config.Load(c.ConfigPath(), config.Options{Node: lab.Serv1})
	must(t, err)
	for _, n := range c.Nodes {
		must(t, n.Start("--log-level", "debug"))
	}
	c.bringHome(t)
	shown := map[string][]byte{}
	look := func(when string) {
		for _, n := range c.Nodes {
			for what, b := range c.showings(t, n) {
				shown[when+": "+n.Name+": "+what] = b
			}
		}
	}
	look("at rest")
	if err := c.api[lab.Serv1].Move(t.Context(), "nothing", "", false); err == nil {
		t.Error("an identity that does not exist was moved")
	}
	c.breakSecret(t, secret, raw, shown)
	fail(t, c, lab.FaultDaemonKill).end()
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultDaemonKill, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	look("after a takeover")
	for what, b := range shown {
		if i := revealed(b, raw, cfg.Keys[0]); i != "" {
			t.Errorf("%s shows the secret, %s", what, i)
		}
	}
}

// breakSecret breaks the secret's file and notes what is said of it.
func (c *cluster) breakSecret(t *testing.T, path string, raw []byte, shown map[string][]byte) {
	t.Helper()
	whole := hex.EncodeToString(raw)
	for name, content := range map[string]string{"with a letter too few": whole[:63], "with a wrong letter": whole[:63] + "x", "twice": whole + "\n" + whole} {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		executable, err := program()
		must(t, err)
		out, err := exec.Command(executable, "--config", c.ConfigPath(), "--node", lab.Serv1, "check").CombinedOutput()
		if err == nil {
			t.Errorf("a secret %s was taken", name)
		}
		shown["check of a secret "+name] = out
	}
	must(t, os.WriteFile(path, []byte(whole+"\n"), 0o600))
}

// showings are all that can be seen of a node without its memory.
func (c *cluster) showings(t *testing.T, n *lab.Node) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	executable, err := program()
	must(t, err)
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"events"}, {"events", "--json"}, {"ping"}, {"check"}, {"check", "--json"}, {"check", "--history"}} {
		cmd := exec.Command(executable, append(n.Flags(), args...)...)
		must(t, c.Do(n.Name, func() error { out[strings.Join(args, " ")], _ = cmd.CombinedOutput(); return nil }))
	}
	for _, path := range []string{n.Logs, fmt.Sprintf("/proc/%d/cmdline", n.PID()), fmt.Sprintf("/proc/%d/environ", n.PID())} {
		out[path], err = os.ReadFile(path)
		must(t, err)
	}
	for _, dir := range []string{n.StateDir, n.RunDir} {
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				out[path], err = os.ReadFile(path)
			}
			if errors.Is(err, fs.ErrNotExist) { // it was on its way to its name
				delete(out, path)
				return nil
			}
			return err
		}))
	}
	for _, path := range []string{"/", "/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars"} {
		out[path], err = c.page(n.Name, path)
		must(t, err)
	}
	for what, b := range out {
		if len(b) == 0 && !strings.Contains(what, "lock") {
			t.Errorf("%s of %s is empty: there is nothing to look at", what, n.Name)
		}
	}
	return out
}

// page is what a node's metrics listener answers, asked from inside its namespace.
func (c *cluster) page(node, path string) ([]byte, error) {
	var conn net.Conn
	if err := c.Do(node, func() (err error) { conn, err = net.Dial("tcp", "127.0.0.1:9640"); return err }); err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

// revealed tells in which form the secret, or the key made of it, stands in b.
func revealed(b, raw []byte, k config.Key) string {
	key := make([]byte, 0, 16)
	for _, w := range []uint64{k.K0, k.K1} {
		for i := range 8 {
			key = append(key, byte(w>>(8*i)))
		}
	}
	asList, _ := json.Marshal(raw)
	lower := bytes.ToLower(b)
	for form, part := range map[string][]byte{
		"as raw bytes": raw[:8], "in hex": []byte(hex.EncodeToString(raw[:8])), "in base 64": asList[1:12],
		"as key bytes": key[:8], "as the second half of the key": key[8:], "as key in hex": []byte(hex.EncodeToString(key[:8])),
		"as number": []byte(strconv.FormatUint(k.K0, 10)), "as number in hex": []byte(strconv.FormatUint(k.K0, 16)), "as second number": []byte(strconv.FormatUint(k.K1, 10)),
	} {
		if bytes.Contains(b, part) || bytes.Contains(lower, part) {
			return form
		}
	}
	return ""
}
