// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// data is where the test finds what a node's daemon has at /srv.
func data(n *lab.Node, name string) string { return filepath.Join(n.Srv(), name) }

func content(n *lab.Node, name string) string {
	b, err := os.ReadFile(data(n, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// mirrored waits until a node says that the set flows in a direction, and a copy is complete.
func (c *cluster) mirrored(t *testing.T, node, direction string) {
	t.Helper()
	await(t, fmt.Sprintf("the set on %s: %s, complete", node, direction), func() error {
		s, err := c.status(node)
		if err != nil {
			return err
		}
		if len(s.Mirrors) != 1 {
			return fmt.Errorf("%d sets", len(s.Mirrors))
		}
		if m := s.Mirrors[0]; m.Direction != direction || m.LagS < 0 || m.Error != "" {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
}

func TestTheOwnersDataIsOnTheOtherNode(t *testing.T) {
	c := newCluster(t, lab.Scene{Profile: "cautious", Mirror: "{paths: [/srv]}"})
	for _, n := range c.Nodes {
		must(t, n.StartWithSrv())
	}
	c.bringHome(t)
	one, two := c.Nodes[0], c.Nodes[1]
	same := func(name, want string) {
		t.Helper()
		await(t, name+" is on both nodes", func() error {
			if a, b := content(one, name), content(two, name); a != want || b != want {
				return fmt.Errorf("%q here, %q there, want %q", a, b, want)
			}
			return nil
		})
	}
	c.mirrored(t, lab.Serv1, control.MirrorOut)
	c.mirrored(t, lab.Serv2, control.MirrorIn)
	must(t, os.WriteFile(data(one, "mail"), []byte("before the failure"), 0o600))
	same("mail", "before the failure")

	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, files); return err })
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	must(t, os.WriteFile(data(two, "mail"), []byte("after the failure"), 0o600))
	must(t, os.WriteFile(data(one, "unsent"), []byte("written as the power went"), 0o600))
	await(t, "serv2 owns the set", func() error {
		if m := c.mustStatus(t, lab.Serv2).Mirrors[0]; m.Direction != control.MirrorOut || !strings.Contains(m.Error, "reach serv1") {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})

	within(t, func(ctx context.Context) error { return c.Heal(ctx, lab.FaultPower, files) })
	c.awaitSettled(t, everythingOn(lab.Serv2))
	c.mirrored(t, lab.Serv1, control.MirrorIn)
	c.mirrored(t, lab.Serv2, control.MirrorOut)
	same("mail", "after the failure")
	if _, err := os.Stat(data(one, "unsent")); err == nil {
		t.Error("the old owner's last words are still there")
	}

	c.bringHome(t)
	c.mirrored(t, lab.Serv1, control.MirrorOut)
	c.mirrored(t, lab.Serv2, control.MirrorIn)
	must(t, os.WriteFile(data(one, "mail"), []byte("at home again"), 0o600))
	same("mail", "at home again")
}

// withData is a cluster at home whose nodes have a /srv of their own, mirrored.
func withData(t *testing.T, s lab.Scene) *cluster {
	t.Helper()
	s.Profile, s.SupervisorLease = "cautious", patientLease
	c := newCluster(t, s)
	for _, n := range c.Nodes {
		must(t, n.StartWithSrv())
	}
	c.awaitSettled(t, atHome)
	c.mirrored(t, lab.Serv1, control.MirrorOut)
	c.mirrored(t, lab.Serv2, control.MirrorIn)
	return c
}

func (c *cluster) has(t *testing.T, node, name, want string) {
	t.Helper()
	await(t, name+" on "+node, func() error {
		if got := content(c.Node(node), name); got != want {
			return fmt.Errorf("it holds %q, not %q", got, want)
		}
		return nil
	})
}

func write(t *testing.T, n *lab.Node, name, text string) {
	t.Helper()
	must(t, os.WriteFile(data(n, name), []byte(text), 0o600))
}

// runs is how many runs of the first identity's set have ended well at a node.
func (c *cluster) runs(t *testing.T, node string) float64 {
	t.Helper()
	n, known := c.mustMetrics(t, node)[`xdpha_mirror_runs_total{result="good",set="files"}`]
	if !known {
		t.Fatalf("%s counts no runs", node)
	}
	return n
}

func TestL13AScheduleMirrorsOneWayAndAFailureEndsIt(t *testing.T) {
	c := withData(t, lab.Scene{Mirror: "{paths: [/srv], every: 1s, on_change: false}"})
	one, two := c.Nodes[0], c.Nodes[1]
	write(t, one, "mail", "of the owner")
	write(t, two, "mail", "of the standby, which may not write")
	write(t, two, "own", "what the owner has not")
	c.has(t, lab.Serv2, "mail", "of the owner")
	await(t, "what the owner has not is gone", func() error {
		if _, err := os.Stat(data(two, "own")); !os.IsNotExist(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
	if got := content(one, "mail"); got != "of the owner" {
		t.Errorf("the owner has %q", got)
	}
	began := c.runs(t, lab.Serv1)
	await(t, "runs, though nothing changes", func() error {
		if n := c.runs(t, lab.Serv1); n < began+2 {
			return fmt.Errorf("%v more", n-began)
		}
		return nil
	})

	// The owner hangs: what it writes from now on reaches nobody, then or later.
	c.breaks(t, lab.FaultHang, files)
	await(t, "serv2 runs everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	write(t, one, "mail", "of the old owner, after its failure")
	write(t, one, "stale", "of the old owner, after its failure")
	write(t, two, "mail", "of the new owner")
	c.heal(t, lab.FaultHang, files)
	c.has(t, lab.Serv1, "mail", "of the new owner")
	c.awaitSettled(t, everythingOn(lab.Serv2))
	c.mirrored(t, lab.Serv1, control.MirrorIn)
	c.mirrored(t, lab.Serv2, control.MirrorOut)
	if got := content(two, "mail"); got != "of the new owner" {
		t.Errorf("the new owner has %q", got)
	}
	for _, n := range c.Nodes {
		if _, err := os.Stat(data(n, "stale")); !os.IsNotExist(err) {
			t.Errorf("%s has what the old owner wrote after its failure (%v)", n.Name, err)
		}
	}
}

// TestAfterBothHaveBootedTheNewerDataIsServed: the home lost its power first, and has not heard of what the other
// node served since.
func TestAfterBothHaveBootedTheNewerDataIsServed(t *testing.T) {
	c := withData(t, lab.Scene{Mirror: "{paths: [/srv]}", Extra: "hold: until-synced\n"})
	write(t, c.Nodes[0], "mail", "before the failure")
	c.has(t, lab.Serv2, "mail", "before the failure")
	c.breaks(t, lab.FaultPower, files)
	await(t, "serv2 runs everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	write(t, c.Nodes[1], "mail", "after it")
	c.breaks(t, lab.FaultBootBoth, files)
	c.heal(t, lab.FaultPower, files)
	c.heal(t, lab.FaultBootBoth, files)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	for _, n := range c.Nodes {
		c.has(t, n.Name, "mail", "after it")
	}
	c.bringHome(t)
	c.has(t, lab.Serv1, "mail", "after it")
}

// terms is how many owners' times a node's data has gone through.
func terms(t *testing.T, n *lab.Node) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.StateDir, "mirrors.json"))
	must(t, err)
	return strings.Count(string(b), `"draw"`)
}

// goesOnAlone waits until a node's data has gone through more terms than before.
func goesOnAlone(t *testing.T, n *lab.Node, before int) {
	t.Helper()
	await(t, n.Name+" counts as one that serves alone", func() error {
		if now := terms(t, n); now == before {
			return fmt.Errorf("its data has gone through %d terms", now)
		}
		return nil
	})
}

// TestAHomeThatWasAwayDoesNotServeItsOldCopy: serv1 is home, and was standby when it lost its power: it knows of the
// generation at which serv2 went on. In the end both boot.
func TestAHomeThatWasAwayDoesNotServeItsOldCopy(t *testing.T) {
	c := withData(t, lab.Scene{Mirror: "{paths: [/srv]}", Extra: "hold: until-synced\n"})
	c.handOver(t, lab.Serv1, "files", lab.Serv2)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	write(t, c.Nodes[1], "mail", "while serv1 was there")
	c.has(t, lab.Serv1, "mail", "while serv1 was there")
	both := terms(t, c.Nodes[1])
	c.breaks(t, lab.FaultPower, files)
	goesOnAlone(t, c.Nodes[1], both)
	write(t, c.Nodes[1], "mail", "hours later")
	c.breaks(t, lab.FaultBootBoth, files)
	c.heal(t, lab.FaultPower, files)
	c.heal(t, lab.FaultBootBoth, files)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	for _, n := range c.Nodes {
		c.has(t, n.Name, "mail", "hours later")
	}
	c.bringHome(t)
	c.has(t, lab.Serv1, "mail", "hours later")
}

// TestAHoldLastsUntilTheOwnersDataIsThere: the standby was away, and its owner still owns at the generation of which it had all.
func TestAHoldLastsUntilTheOwnersDataIsThere(t *testing.T) {
	c := withData(t, lab.Scene{Mirror: "{paths: [/srv], bandwidth: 2MB}", Extra: "hold: until-synced\n"})
	c.handOver(t, lab.Serv1, "files", lab.Serv2)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	both := terms(t, c.Nodes[1])
	c.breaks(t, lab.FaultPower, files)
	goesOnAlone(t, c.Nodes[1], both)
	text := strings.Repeat("hours of work ", 500_000) // seconds to copy
	write(t, c.Nodes[1], "mail", text)
	c.heal(t, lab.FaultPower, files)
	await(t, "serv1's hold ends", func() error { return c.hasEvent(lab.Serv1, 0, "hold-ended", "") })
	if got := content(c.Nodes[0], "mail"); got != text {
		t.Errorf("it has ended with %d bytes of %d", len(got), len(text))
	}
	c.awaitSettled(t, everythingOn(lab.Serv2))
}

// TestDataOfTwoOwnersIsKeptUntilSomebodySaysWhose: no frame passes, both reach the listed hosts, and clients write to both.
func TestDataOfTwoOwnersIsKeptUntilSomebodySaysWhose(t *testing.T) {
	c := withData(t, lab.Scene{Mirror: "{paths: [/srv]}"})
	one, two := c.Nodes[0], c.Nodes[1]
	write(t, one, "mail", "before the split")
	c.has(t, lab.Serv2, "mail", "before the split")
	both := terms(t, one)
	c.breaks(t, lab.FaultPartition, files)
	await(t, "serv2 owns it too", func() error {
		if m := c.mustStatus(t, lab.Serv2).Mirrors[0]; m.Direction != control.MirrorOut {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	goesOnAlone(t, one, both)
	clients := map[string]string{lab.Serv1: "of serv1's clients", lab.Serv2: "of those of serv2"} // not of one size, for they are of one time
	write(t, one, "mail", clients[lab.Serv1])
	write(t, two, "mail", clients[lab.Serv2])
	c.heal(t, lab.FaultPartition, files)
	await(t, "serv2's runs are refused", func() error {
		m := c.mustStatus(t, lab.Serv2).Mirrors[0]
		if m.Direction != control.MirrorOut || !strings.Contains(m.Error, "each has what the other has not") {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	for _, n := range c.Nodes {
		if got, want := content(n, "mail"), clients[n.Name]; got != want {
			t.Errorf("%s has %q, want %q", n.Name, got, want)
		}
	}
	must(t, os.WriteFile(filepath.Join(one.StateDir, "mirror-files.overwrite"), nil, 0o600))
	c.has(t, lab.Serv1, "mail", clients[lab.Serv2])
	c.bringHome(t)
}

// writer is a service that leaves a new file of some megabytes when it stops, and notes what it finds when it
// starts: "NODE START|STOP NUMBER", of how often it was stopped.
const writer = `#!/bin/sh
mark=$2 notes=%[1]s last=/srv/last
case $1 in
start)
	test -e "$mark" || echo "$XDPHA_NODE start $(head -n 1 $last)" >>$notes
	touch "$mark"
	;;
stop)
	test -e "$mark" || exit 0
	n=$(($(head -n 1 $last) + 1))
	{ echo $n; head -c 3000000 /dev/urandom; } >/srv/new && mv /srv/new $last
	echo "$XDPHA_NODE stop $n" >>$notes
	rm "$mark"
	;;
check) test -e "$mark" ;;
esac
`

func TestL14ServicesAreOffOnBothNodesWhileTheLastChangesAreMirroredBack(t *testing.T) {
	c := newCluster(t, lab.Scene{})
	program, notes := filepath.Join(c.Dir, "writer"), filepath.Join(c.Dir, "notes")
	must(t, os.WriteFile(program, fmt.Appendf(nil, writer, notes), 0o700))
	must(t, c.WriteConfig(lab.Scene{Profile: "cautious", SupervisorLease: patientLease, Program: program, Mirror: "{paths: [/srv], bandwidth: 1MB}"}))
	for _, n := range c.Nodes {
		must(t, os.MkdirAll(n.Srv(), 0o755))
		write(t, n, "last", "0\n")
		must(t, n.StartWithSrv())
	}
	c.awaitSettled(t, atHome)
	c.breaks(t, lab.FaultPower, files)
	await(t, "serv2 runs everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	write(t, c.Nodes[1], "meanwhile", "while serv1 was away")
	c.heal(t, lab.FaultPower, files)
	c.awaitSettled(t, everythingOn(lab.Serv2))
	must(t, os.Remove(notes))

	given := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		given <- c.api[lab.Serv1].Giveback(ctx, "files")
	}()
	runsAt := func() (nodes []string) {
		for _, n := range c.Nodes {
			if n.ServiceRuns("filesd") {
				nodes = append(nodes, n.Name)
			}
		}
		return nodes
	}
	await(t, "what the stop has left is under way, and the service is off on both nodes", func() error {
		s, err := c.status(lab.Serv2)
		if err != nil {
			return err
		}
		if on := runsAt(); len(on) > 0 || !s.Mirrors[0].Running {
			return fmt.Errorf("the service runs on %v, a copy is under way: %v", on, s.Mirrors[0].Running)
		}
		return nil
	})
	must(t, <-given)
	c.awaitSettled(t, atHome)
	got, err := os.ReadFile(notes)
	must(t, err)
	if want := "serv2 stop 1\nserv1 start 1\n"; string(got) != want {
		t.Errorf("services did %q, want %q: started at home with what the stop has left", got, want)
	}
	c.has(t, lab.Serv1, "meanwhile", "while serv1 was away")
	same, err := os.ReadFile(data(c.Nodes[0], "last"))
	must(t, err)
	if other, err := os.ReadFile(data(c.Nodes[1], "last")); err != nil || string(other) != string(same) {
		t.Errorf("the nodes' data differ (%v)", err)
	}
}
