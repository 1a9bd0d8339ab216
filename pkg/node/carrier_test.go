// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// Each node has its LAN NIC on one switch and its spare one on the other. Whichever of them is lost, the
// identity stays with its owner, by the other one.
func TestL8TheLossOfASwitchIsSurvived(t *testing.T) {
	c := running(t, lab.Scene{SupervisorLease: patientLease})
	for _, s := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"switch 1 dies, and the spare NIC of serv1 carries files", func(t *testing.T, c *cluster) { switchDies(t, c, files) }},
		{"switch 2 dies, and the spare NIC of serv2 carries mail", func(t *testing.T, c *cluster) { switchDies(t, c, mail) }},
		{"a LAN cable is pulled, and connections go on", cableIsPulled},
		{"both cables are pulled, and the peer takes over", bothCablesArePulled},
		{"the peer dies while an identity is aside, and what it had comes to the same NIC", peerDiesMeanwhile},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			c.bringHome(t)
			c.carriedBy(t, files, lab.Serv1, "lan")
			c.carriedBy(t, mail, lab.Serv2, "lan")
			s.test(t, c)
		}) {
			c.logs(t)
		}
	}
}

// carriedBy waits until an identity is open on a node, and carried by that NIC.
func (c *cluster) carriedBy(t *testing.T, id lab.Identity, node, link string) {
	t.Helper()
	await(t, fmt.Sprintf("%s serves %s by its %s NIC", node, id.Name, link), func() error {
		if err := c.serves(node, map[string]string{id.Name: node}); err != nil {
			return err
		}
		s, err := c.status(node)
		if err != nil {
			return err
		}
		i, err := identity(s, id.Name)
		if err == nil && i.Carrier != link {
			return fmt.Errorf("it is carried by %s", i.Carrier)
		}
		return err
	})
	if m := c.mustMetrics(t, node); m[fmt.Sprintf(`xdpha_carrier{identity="%s",link="%s"}`, id.Name, link)] != 1 {
		t.Errorf("the metrics do not say that %s carries %s", link, id.Name)
	}
}

// atNode lets an identity be behind both NICs of one node.
func atNode(node string) func(lab.Port) bool {
	return func(p lab.Port) bool { return p.Node == node && p.Role != lab.Crossover }
}

// passedBy are the ports that the identity was seen behind, one after the other.
func (w *watch) passedBy() (ports []string) {
	for _, r := range w.seen {
		if name := r.Port.Name(); r.Identity == w.index && (len(ports) == 0 || ports[len(ports)-1] != name) {
			ports = append(ports, name)
		}
	}
	return ports
}

// talk is a connection of one byte each way at a time, from a host to a program on an identity's owner.
type talk struct {
	conn, there net.Conn
}

func (c *cluster) talk(t *testing.T, from string, id lab.Identity) *talk {
	t.Helper()
	x := &talk{}
	var ln net.Listener
	must(t, c.Do(id.Home, func() (err error) {
		ln, err = net.Listen("tcp", net.JoinHostPort(id.Addr.String(), "5555"))
		return err
	}))
	defer ln.Close()
	must(t, c.Do(from, func() (err error) {
		x.conn, err = net.DialTimeout("tcp", ln.Addr().String(), patience)
		return err
	}))
	t.Cleanup(func() { x.conn.Close() })
	var err error
	x.there, err = ln.Accept()
	must(t, err)
	t.Cleanup(func() { x.there.Close() })
	x.goesOn(t)
	return x
}

func (x *talk) goesOn(t *testing.T) {
	t.Helper()
	for _, way := range [][2]net.Conn{{x.conn, x.there}, {x.there, x.conn}} {
		must(t, errors.Join(way[0].SetDeadline(time.Now().Add(patience)), way[1].SetDeadline(time.Now().Add(patience))))
		_, err := way[0].Write([]byte{1})
		if err == nil {
			_, err = io.ReadFull(way[1], make([]byte, 1))
		}
		must(t, err)
	}
}

// switchDies: the client is on switch 1, and so sees nothing while that is dark; a host on switch 2 does.
func switchDies(t *testing.T, c *cluster, id lab.Identity) {
	from := map[string]string{lab.Serv1: lab.Hosts2, lab.Serv2: lab.Client}[id.Home]
	before, peer := c.generation(t, id.Home, id.Name), c.Peer(id.Home).Name
	other := lab.Identities[1-slices.Index(lab.Identities[:], id)]
	w := c.watchAt(t, id, atNode(id.Home))
	x := c.talk(t, from, id)
	c.breaks(t, lab.FaultSwitch, id)
	c.carriedBy(t, id, id.Home, "spare")
	c.carriedBy(t, other, other.Home, "lan")
	x.goesOn(t)
	c.aside(t, peer, id, "lan") // ahead: its spare NIC is on that switch
	c.heal(t, lab.FaultSwitch, id)
	c.carriedBy(t, id, id.Home, "lan")
	c.aside(t, peer, id, "spare")
	x.goesOn(t)
	c.awaitSettled(t, atHome)
	if after := c.generation(t, id.Home, id.Name); after != before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	w.awaitAnswerBy(id.Home)
	w.end()
	w.wentThere(id.Home)
}

// wentThere holds that the identity left its LAN port once, and came back to it once.
func (w *watch) wentThere(node string) {
	w.t.Helper()
	want := []string{node + "-lan", node + "-spare", node + "-lan"}
	if got := w.passedBy(); !slices.Equal(got, want) {
		w.t.Errorf("the identity was behind %v, and not %v", got, want)
	}
}

// aside waits until a node that does not own an identity would carry it by that NIC.
func (c *cluster) aside(t *testing.T, node string, id lab.Identity, link string) {
	t.Helper()
	await(t, fmt.Sprintf("%s has %s on its %s NIC", node, id.Name, link), func() error {
		s, err := c.status(node)
		if err != nil {
			return err
		}
		i, err := identity(s, id.Name)
		if err == nil && i.Carrier != link {
			return fmt.Errorf("it is on %s", i.Carrier)
		}
		return err
	})
}

func cableIsPulled(t *testing.T, c *cluster) {
	before, since := c.generation(t, lab.Serv1, "files"), c.lastEvent(t, lab.Serv1)
	w := c.watchAt(t, files, atNode(lab.Serv1), lab.Serv2)
	x := c.talk(t, lab.Client, files)
	c.breaks(t, lab.FaultLAN, files)
	c.carriedBy(t, files, lab.Serv1, "spare")
	c.awaitEvent(t, lab.Serv1, since, "carrier", "spare carries files in the place of lan")
	x.goesOn(t)
	w.awaitAnswerBy(lab.Serv1)
	for sw, port := range map[string]string{lab.Sw1: "trunk", lab.Sw2: "serv1-spare"} {
		await(t, sw+" learned the new place", func() error {
			if ports, err := c.FDB(sw, files.MAC); err != nil || !slices.Equal(ports, []string{port}) {
				return fmt.Errorf("it is behind %v (%v)", ports, err)
			}
			return nil
		})
	}
	for _, kind := range []string{"services", "hand-over"} {
		if c.hasTold(t, lab.Serv1, since, kind) {
			t.Errorf("there was an event %s: the services were to go on", kind)
		}
	}
	must(t, c.Node(lab.Serv1).Kill()) // whoever comes after it finds the identity where it is
	must(t, c.Node(lab.Serv1).Restart())
	c.carriedBy(t, files, lab.Serv1, "spare")
	c.heal(t, lab.FaultLAN, files)
	c.carriedBy(t, files, lab.Serv1, "lan")
	c.awaitSettled(t, atHome)
	if after := c.generation(t, lab.Serv1, "files"); after != before {
		t.Errorf("the generation was %d and is %d", before, after)
	}
	w.awaitAnswerBy(lab.Serv1)
	sum := w.end()
	t.Logf("the client's longest silence: %v", time.Duration(sum.OutageNs))
	w.wentThere(lab.Serv1)
}

func bothCablesArePulled(t *testing.T, c *cluster) {
	must(t, errors.Join(c.Cut(lab.Serv1, lab.Spare), c.Cut(lab.Serv1, lab.LAN)))
	await(t, "serv2 owns everything", func() error { return c.serves(lab.Serv2, everythingOn(lab.Serv2)) })
	c.answered(t, lab.Serv2)
	must(t, errors.Join(c.Mend(lab.Serv1, lab.Spare), c.Mend(lab.Serv1, lab.LAN)))
	c.awaitSettled(t, everythingOn(lab.Serv2))
}

// peerDiesMeanwhile: what a node takes over goes to its spare NIC, which carries its own identity already.
func peerDiesMeanwhile(t *testing.T, c *cluster) {
	c.breaks(t, lab.FaultLAN, mail)
	c.carriedBy(t, mail, lab.Serv2, "spare")
	within(t, func(ctx context.Context) error { _, err := c.Inject(ctx, lab.FaultPower, files); return err })
	c.carriedBy(t, files, lab.Serv2, "spare")
	c.carriedBy(t, mail, lab.Serv2, "spare")
	c.answered(t, lab.Serv2)
	c.heal(t, lab.FaultPower, files)
	c.heal(t, lab.FaultLAN, mail)
	c.carriedBy(t, mail, lab.Serv2, "lan")
	c.awaitSettled(t, everythingOn(lab.Serv2))
}
