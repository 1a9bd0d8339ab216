// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/core"
	"github.com/xdpha/xdpha/pkg/journal"
	"github.com/xdpha/xdpha/pkg/lab"
)

var files, mail = lab.Identities[0], lab.Identities[1]

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestThePair goes through what can happen to a cluster, one after the other in one lab.
func TestThePair(t *testing.T) {
	c := running(t, lab.Scene{SupervisorLease: "4s"}) // a peer that is held up asks before it ends
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"both nodes claim their homes", bothClaimTheirHomes},
		{"a forged frame is never answered and changes nothing", forgedFramesChangeNothing},
		{"a second daemon is refused", secondDaemonIsRefused},
		{"orders move identities and bring them back", ordersMoveAndBringBack},
		{"the crossover's loss moves nobody and is told", crossoverLossMovesNobody},
		{"two lost LAN cables hand over and come to rest", lanLossHandsOverOnce},
		{"a hang makes the peer own, and healed there is one owner", hangAndHeal},
		{"a power cut makes the peer own", powerCut},
		{"a stopped daemon loses all, and puts away what it had", stoppedDaemonLosesAll},
		{"a killed daemon that stays away loses all", killedDaemonLosesAll},
		{"both daemons killed and started again", bothKilled},
		{"both nodes without power and back", bothWithoutPower},
		{"a damaged or foreign state is refused", badStateIsRefused},
		{"both journals decide again what was decided", journalsReplay},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

func bothClaimTheirHomes(t *testing.T, c *cluster) {
	for _, id := range lab.Identities {
		w := c.watch(t, id, lab.Serv1, lab.Serv2)
		w.awaitAnswerBy(id.Home)
		w.endLossless()
	}
}

// fail breaks the home of files and holds what must hold.
func fail(t *testing.T, c *cluster, kind lab.Fault) *watch {
	t.Helper()
	before := c.generation(t, lab.Serv2, "files")
	w := c.watch(t, files, lab.Serv2)
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, kind, files); return err })
	w.awaitAnswerBy(lab.Serv2)
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	if after := c.generation(t, lab.Serv2, "files"); after <= before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	// One frame from the new place, and both switches know it.
	for sw, port := range map[string]string{lab.Sw1: "serv2-spare", lab.Sw2: "trunk"} {
		await(t, sw+" learned the new place", func() error {
			if ports, err := c.FDB(sw, files.MAC); err != nil || !slices.Equal(ports, []string{port}) {
				return fmt.Errorf("it is behind %v (%v)", ports, err)
			}
			return nil
		})
	}
	return w
}

func powerCut(t *testing.T, c *cluster) {
	w := fail(t, c, lab.FaultPower)
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2)) // the returning node takes nothing by itself
	if sum := w.end(); sum.After != lab.Serv2 {
		t.Errorf("at the end %s answers", sum.After)
	}
}

func hangAndHeal(t *testing.T, c *cluster) {
	before := c.generation(t, lab.Serv1, "files")
	w := fail(t, c, lab.FaultHang)
	await(t, "the hanging node's gate closes", func() error {
		s, err := c.status(lab.Serv1)
		if err != nil {
			return err
		}
		if id, err := identity(s, "files"); err != nil || id.Gate != control.GateClosed {
			return fmt.Errorf("it is %s (%v)", id.Gate, err)
		}
		return nil
	})
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultHang, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	if after := c.generation(t, lab.Serv1, "files"); after <= before {
		t.Errorf("the old owner's generation was %d and is %d", before, after)
	}
	w.end()
}

func crossoverLossMovesNobody(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	since := map[string]uint64{}
	for _, n := range c.Nodes {
		since[n.Name] = c.lastEvent(t, n.Name)
	}
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultCrossover, files); return err })
	for _, n := range c.Nodes {
		await(t, "link-lost is told", func() error { return c.hasEvent(n.Name, since[n.Name], "link-lost", "crossover") })
		cut := frames(c.mustMetrics(t, n.Name), `link="crossover"`, `kind="reply"`)
		lan := frames(c.mustMetrics(t, n.Name), `link="lan"`, `kind="reply"`)
		await(t, "the metric says which link is lost", func() error {
			m, err := c.metrics(n.Name)
			if err != nil {
				return err
			}
			if m[`xdpha_link_up{link="crossover"}`] != 0 || m[`xdpha_link_up{link="lan"}`] != 1 {
				return fmt.Errorf("crossover %v, lan %v", m[`xdpha_link_up{link="crossover"}`], m[`xdpha_link_up{link="lan"}`])
			}
			return nil
		})
		await(t, "the metric shows which link is silent", func() error {
			m, err := c.metrics(n.Name)
			if err != nil {
				return err
			}
			if now := frames(m, `link="lan"`, `kind="reply"`); now <= lan {
				return fmt.Errorf("%v replies on lan, still", now)
			}
			if now := frames(m, `link="crossover"`, `kind="reply"`); now != cut {
				return fmt.Errorf("%v replies on the crossover that is cut, %v before", now, cut)
			}
			return nil
		})
		must(t, c.serves(n.Name, atHome))
	}
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultCrossover, files) })
	for _, n := range c.Nodes {
		await(t, "link-back is told", func() error { return c.hasEvent(n.Name, since[n.Name], "link-back", "crossover") })
		if gap := c.mustMetrics(t, n.Name)[`xdpha_heartbeat_gap_max_seconds{link="crossover"}`]; gap < 1 {
			t.Errorf("%s has a longest gap of %v s on the crossover", n.Name, gap)
		}
	}
	c.awaitSettled(t, atHome)
	w.endLossless()
}

func lanLossHandsOverOnce(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv2)
	must(t, errors.Join(c.Cut(lab.Serv1, lab.Spare), c.Cut(lab.Serv1, lab.LAN)))
	w.awaitAnswerBy(lab.Serv2)
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	gen := c.generation(t, lab.Serv2, "files")
	must(t, errors.Join(c.Mend(lab.Serv1, lab.Spare), c.Mend(lab.Serv1, lab.LAN)))
	c.awaitSettled(t, everythingOn(lab.Serv2))
	stays(t, "the identity stays where it went", 2*time.Second, func() error {
		if g := c.generation(t, lab.Serv2, "files"); g != gen {
			return fmt.Errorf("the generation was %d and is %d", gen, g)
		}
		return c.settled(everythingOn(lab.Serv2))
	})
	w.end()
}

func ordersMoveAndBringBack(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	one, two := c.api[lab.Serv1], c.api[lab.Serv2]

	within(t, func(ctx context.Context) error { return one.Move(ctx, "files", "", false) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	w.awaitAnswerBy(lab.Serv2)
	w.end()
	w = c.watch(t, files, lab.Serv1, lab.Serv2)
	within(t, func(ctx context.Context) error { return one.Move(ctx, "files", lab.Serv1, false) }) // asked of the one that wants it
	c.awaitSettled(t, atHome)
	w.awaitAnswerBy(lab.Serv1)
	w.end()
	w = c.watch(t, mail, lab.Serv1, lab.Serv2)
	within(t, func(ctx context.Context) error { return one.Move(ctx, "mail", lab.Serv1, false) })
	c.awaitSettled(t, everythingOn(lab.Serv1))
	w.awaitAnswerBy(lab.Serv1)
	w.end()
	w = c.watch(t, mail, lab.Serv1, lab.Serv2)
	within(t, func(ctx context.Context) error { return two.Giveback(ctx, "") })
	c.awaitSettled(t, atHome)
	w.awaitAnswerBy(lab.Serv2)
	w.end()

	w = c.watch(t, files, lab.Serv1, lab.Serv2)
	within(t, func(ctx context.Context) error { return one.Standby(ctx, true) })
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	if err := two.Move(t.Context(), "files", lab.Serv1, false); err == nil {
		t.Error("an identity could be moved to a node in standby")
	}
	within(t, func(ctx context.Context) error { return one.Standby(ctx, false) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	w.awaitAnswerBy(lab.Serv2)
	w.end()
	w = c.watch(t, files, lab.Serv1, lab.Serv2)
	within(t, func(ctx context.Context) error { return one.Giveback(ctx, "") })
	c.awaitSettled(t, atHome)
	w.awaitAnswerBy(lab.Serv1)

	within(t, func(ctx context.Context) error { return one.Freeze(ctx, true) })
	if err := one.Move(t.Context(), "files", lab.Serv2, false); err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("an identity could be moved from a frozen node, or was refused without the reason: %v", err)
	}
	await(t, "serv2 knows that its peer is frozen", func() error {
		if err := two.Move(t.Context(), "mail", lab.Serv1, false); err == nil || !strings.Contains(err.Error(), "frozen") {
			return fmt.Errorf("it says: %v", err)
		}
		return nil
	})
	within(t, func(ctx context.Context) error { return one.Freeze(ctx, false) })
	c.bringHome(t)
	c.awaitSettled(t, atHome)
	w.end()
}

func stoppedDaemonLosesAll(t *testing.T, c *cluster) {
	w := fail(t, c, lab.FaultDaemonStop)
	if o := c.mustStatus(t, lab.Serv2).LastTakeover; o == nil || o.Cause != "stand-down" { // its kernel was asked, and released it
		t.Errorf("the takeover was %+v", o)
	}
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultDaemonStop, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2)) // the daemon that woke up has put addresses and services away
	w.end()
}

func killedDaemonLosesAll(t *testing.T, c *cluster) {
	w := fail(t, c, lab.FaultDaemonKill)
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultDaemonKill, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	w.end()
}

// oneOwnerEach awaits that both nodes agree on somebody, whoever it is.
func (c *cluster) oneOwnerEach(t *testing.T) {
	t.Helper()
	await(t, "each identity has exactly one owner", func() error {
		s, err := c.status(lab.Serv1)
		if err != nil {
			return err
		}
		owners := map[string]string{}
		for _, id := range s.Identities {
			owners[id.Name] = id.Owner
			if id.Owner == "" {
				return fmt.Errorf("%s is nobody's", id.Name)
			}
		}
		return c.settled(owners)
	})
}

func bothKilled(t *testing.T, c *cluster) {
	for _, lapse := range []bool{false, true} {
		for _, n := range c.Nodes {
			must(t, n.Kill())
		}
		if lapse {
			// Nobody answers once both leases ran out.
			mac := files.MAC
			await(t, "both gates close", func() error { return c.silent(t, files, mac) })
		}
		for _, n := range c.Nodes {
			must(t, n.Restart())
		}
		c.oneOwnerEach(t)
		c.bringHome(t)
	}
}

func bothWithoutPower(t *testing.T, c *cluster) {
	before := c.generation(t, lab.Serv1, "files")
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, files); return err })
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, mail); return err })
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, mail) })
	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, files) })
	c.oneOwnerEach(t)
	if after := c.generation(t, lab.Serv1, "files"); after <= before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
}

// runDaemon runs a daemon on a node beside the lab's own, and returns how it ended.
func (c *cluster) runDaemon(t *testing.T, node string, flags ...string) (status int, output string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), built, append(slices.Concat(c.Node(node).Flags(), flags), "run")...)
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	must(t, c.Do(node, cmd.Start))
	_ = cmd.Wait() // its status says how
	return cmd.ProcessState.ExitCode(), b.String()
}

func secondDaemonIsRefused(t *testing.T, c *cluster) {
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	status, out := c.runDaemon(t, lab.Serv1)
	first := c.Node(lab.Serv1)
	if status != 1 || !strings.Contains(out, fmt.Sprintf("another daemon (process %d) holds %s:", first.PID(), filepath.Join(first.RunDir, "lock"))) || !strings.Contains(out, "--run-dir") {
		t.Errorf("status %d: %s", status, out)
	}
	// With directories of its own, but on the same NICs: refused too, and nothing is disturbed.
	status, out = c.runDaemon(t, lab.Serv1, "--run-dir", t.TempDir(), "--state-dir", t.TempDir(), "--pin-dir", c.Node(lab.Serv1).PinDir+"-other")
	if status != 1 || !strings.Contains(out, fmt.Sprintf("another daemon (process %d)", first.PID())) || !strings.Contains(out, "in this network namespace") {
		t.Errorf("status %d: %s", status, out)
	}
	must(t, c.settled(atHome))
	w.endLossless()
}

func badStateIsRefused(t *testing.T, c *cluster) {
	n := c.Node(lab.Serv1)
	must(t, n.Kill())
	path := filepath.Join(n.StateDir, "state.json")
	good, err := os.ReadFile(path)
	must(t, err)
	foreign := strings.Replace(string(good), `"node":"serv1"`, `"node":"serv9"`, 1)
	for name, content := range map[string][]byte{
		"cut short": good[:len(good)/2], "empty": {}, "a bit turned": append(slices.Clone(good[:len(good)-20]), append([]byte{good[len(good)-20] ^ 1}, good[len(good)-19:]...)...),
		"of another node, edited": []byte(foreign), "noise": []byte("\x00\xff\x00"),
	} {
		must(t, os.WriteFile(path, content, 0o600))
		status, out := c.runDaemon(t, lab.Serv1)
		if status != 1 || !strings.Contains(out, path) || !strings.Contains(out, "restore it from a backup") {
			t.Errorf("%s: status %d: %s", name, status, out)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != string(content) {
			t.Errorf("%s: the refused file was changed (%v)", name, err)
		}
	}
	other, err := os.ReadFile(filepath.Join(c.Node(lab.Serv2).StateDir, "state.json"))
	must(t, err)
	must(t, os.WriteFile(path, other, 0o600))
	if status, out := c.runDaemon(t, lab.Serv1); status != 1 || !strings.Contains(out, "it belongs to node serv2") || !strings.Contains(out, "--state-dir") {
		t.Errorf("of the other node: status %d: %s", status, out)
	}
	must(t, os.WriteFile(path, good, 0o600))
	must(t, n.Restart())
	c.oneOwnerEach(t)
}

// journalsReplay: every sum of what the daemons decided, killed ones too, is that of the replay.
func journalsReplay(t *testing.T, c *cluster) {
	for _, name := range []string{lab.Serv1, lab.Serv2} {
		n := c.Node(name)
		must(t, n.Kill())
		starts, owned := 0, 0
		must(t, journal.Replay(n.StateDir, func(p journal.Played) error {
			if p.Wrong != "" {
				t.Errorf("%s:%d: %s", p.File, p.Line, p.Wrong)
			}
			if p.Start != nil {
				starts++
			}
			for _, a := range p.Actions {
				if told, ok := a.(core.Notify); ok && told.Identity >= 0 {
					owned++
				}
			}
			return nil
		}))
		if starts == 0 || owned == 0 {
			t.Errorf("%s: %d starts and %d news of identities are played", name, starts, owned)
		}
		must(t, n.Restart())
	}
}

// TestARestartWithinTheLeaseCostsNothing has a longer lease, that a busy machine
// makes it in time too.
func TestARestartWithinTheLeaseCostsNothing(t *testing.T) {
	c := running(t, lab.Scene{SupervisorLease: "20s"})
	gen := c.generation(t, lab.Serv1, "files")
	for _, kind := range []lab.Fault{lab.FaultDaemonKill, lab.FaultDaemonStop} {
		t.Run(string(kind), func(t *testing.T) {
			w := c.watch(t, files, lab.Serv1, lab.Serv2)
			t0 := lab.NowNs()
			within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, kind, files); return err })
			await(t, "the peer sees an old supervisor", func() error {
				if age := c.mustStatus(t, lab.Serv2).Peer.SupervisorAgeUS; age < 500_000 {
					return fmt.Errorf("it is %d us old", age)
				}
				return nil
			})
			within(t, func(ctx context.Context) error { return c.Heal(ctx, kind, files) })
			c.awaitSettled(t, atHome)
			w.awaitAnswerBy(lab.Serv1)
			t.Logf("without a daemon for less than %v", time.Duration(lab.NowNs()-t0))
			if now := c.generation(t, lab.Serv1, "files"); now != gen {
				t.Errorf("the generation was %d and is %d", gen, now)
			}
			w.endLossless()
		})
	}
}

func TestANodeLeavesTheHostAsItFoundIt(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious", SupervisorLease: "20s"})
	before, sysctls := map[string]string{}, map[string]map[string]string{}
	for _, n := range c.Nodes {
		before[n.Name], sysctls[n.Name] = c.host(t, n.Name), c.sysctls(t, n.Name)
		must(t, n.Start("--keep"))
	}
	c.bringHome(t)
	for _, n := range c.Nodes {
		sameSysctls(t, "while it runs", sysctls[n.Name], c.sysctls(t, n.Name))
	}
	t.Run("with --keep all stays, and the next start adopts it", func(t *testing.T) {
		n, during, pins := c.Node(lab.Serv1), c.host(t, lab.Serv1), c.pins(t, lab.Serv1)
		w := c.watch(t, files, lab.Serv1, lab.Serv2)
		within(t, func(ctx context.Context) error { status, err := n.Stop(ctx); return orStatus(status, err) })
		if now := c.host(t, lab.Serv1); now != during {
			t.Errorf("the host was\n%s\nand is\n%s", during, now)
		}
		if now := c.pins(t, lab.Serv1); !slices.Equal(now, pins) {
			t.Errorf("the pins were %v and are %v", pins, now)
		}
		must(t, n.Start())
		c.awaitSettled(t, atHome)
		w.awaitAnswerBy(lab.Serv1)
		w.endLossless()
	})
	t.Run("it hands over before it goes", func(t *testing.T) {
		w := c.watch(t, files, lab.Serv1, lab.Serv2)
		within(t, func(ctx context.Context) error {
			status, err := c.Node(lab.Serv1).Stop(ctx)
			return orStatus(status, err)
		})
		w.awaitAnswerBy(lab.Serv2)
		await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
		w.end()
		c.isClean(t, lab.Serv1, before[lab.Serv1], sysctls[lab.Serv1])
	})
	t.Run("the last one puts away what nobody can take", func(t *testing.T) {
		n := c.Node(lab.Serv2)
		must(t, n.Kill()) // it was started to keep
		must(t, n.Start())
		await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
		within(t, func(ctx context.Context) error { status, err := n.Stop(ctx); return orStatus(status, err) })
		c.isClean(t, lab.Serv2, before[lab.Serv2], sysctls[lab.Serv2])
		for _, service := range []string{"filesd", "maild", "dns"} {
			if n.ServiceRuns(service) {
				t.Errorf("service %s still runs", service)
			}
		}
	})
}

func orStatus(status int, err error) error {
	if err == nil && status != 0 {
		err = fmt.Errorf("the daemon ended with status %d", status)
	}
	return err
}

// isClean compares a node with what it was before the daemon first ran.
func (c *cluster) isClean(t *testing.T, node, before string, sysctls map[string]string) {
	t.Helper()
	if now := c.host(t, node); now != before {
		t.Errorf("%s was\n%s\nand is\n%s", node, before, now)
	}
	if left := c.pins(t, node); len(left) > 0 {
		t.Errorf("%s has left pins: %v", node, left)
	}
	sameSysctls(t, node+" afterwards", sysctls, c.sysctls(t, node))
}

func TestNobodyAnswersWhileNoGateIsOpen(t *testing.T) {
	c := running(t, lab.Scene{})
	for _, n := range c.Nodes {
		within(t, func(ctx context.Context) error { return c.api[n.Name].Freeze(ctx, true) })
	}
	for _, id := range lab.Identities {
		within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, id); return err })
	}
	for _, id := range lab.Identities {
		within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, id) })
	}
	nobody := map[string]string{"files": "", "mail": ""}
	for _, n := range c.Nodes { // frozen, both up after a boot: nobody may take anything
		await(t, n.Name+" is up and owns nothing", func() error {
			s, err := c.status(n.Name)
			if err == nil && s.Peer.State != control.PeerUp {
				err = fmt.Errorf("its peer is %s", s.Peer.State)
			}
			if err != nil {
				return err
			}
			return c.serves(n.Name, nobody)
		})
	}
	for _, id := range lab.Identities {
		must(t, c.silent(t, id, id.MAC))
	}
	for _, n := range c.Nodes {
		within(t, func(ctx context.Context) error { return c.api[n.Name].Freeze(ctx, false) })
	}
	c.bringHome(t) // who was frozen longer may find that the other one has waited long enough, and took both
	if err := c.silent(t, files, files.MAC); err == nil {
		t.Error("the same questions are not answered with an open gate: this test shows nothing")
	}
}

// TestKilledAtAnyMoment kills a daemon again and again, while it starts and while it runs.
func TestKilledAtAnyMoment(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := newCluster(t, lab.Scene{Profile: "cautious"})
	before, sysctls := c.host(t, lab.Serv1), c.sysctls(t, lab.Serv1)
	for _, n := range c.Nodes {
		must(t, n.Start())
	}
	c.bringHome(t)
	n := c.Node(lab.Serv1)
	for i := range 24 {
		must(t, n.Kill())
		must(t, n.Restart())
		if i%4 == 3 { // from a running one, else from one that starts
			c.oneOwnerEach(t)
		}
		select {
		case <-time.After(time.Duration(random.Int64N(int64(300 * time.Millisecond)))): // the random moment
		case <-n.Gone():
			t.Fatalf("round %d: the daemon ended by itself:\n%s", i, n.Tail(20))
		}
		if i%6 == 5 { // from nothing
			within(t, func(ctx context.Context) error { return c.stopIfItCan(ctx, n) })
			must(t, n.Restart())
			select {
			case <-time.After(time.Duration(random.Int64N(int64(300 * time.Millisecond)))):
			case <-n.Gone():
				t.Fatalf("round %d: the daemon ended by itself:\n%s", i, n.Tail(20))
			}
		}
	}
	c.bringHome(t)
	w := c.watch(t, files, lab.Serv1, lab.Serv2)
	w.awaitAnswerBy(lab.Serv1)
	w.endLossless()
	within(t, func(ctx context.Context) error { status, err := n.Stop(ctx); return orStatus(status, err) })
	c.isClean(t, lab.Serv1, before, sysctls)
	left, err := os.ReadDir(n.StateDir)
	must(t, err)
	for _, f := range left {
		if !slices.Contains([]string{"state.json", "journal", "journal.1", "guard.lock"}, f.Name()) {
			t.Errorf("%s was left in the state directory", f.Name())
		}
	}
}

// stopIfItCan ends a daemon in order, at whatever point of its start it is.
func (c *cluster) stopIfItCan(ctx context.Context, n *lab.Node) error {
	if err := n.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-n.Gone():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("await end of %s: %w", n.Name, ctx.Err())
	}
}
