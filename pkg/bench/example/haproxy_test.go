// SPDX-License-Identifier: Apache-2.0

package example

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/lab"
)

var (
	eachAtHome = map[string]string{"front1": lab.Serv1, "front2": lab.Serv2}
	allOnServ2 = map[string]string{"front1": lab.Serv2, "front2": lab.Serv2}
	allOnServ1 = map[string]string{"front1": lab.Serv1, "front2": lab.Serv1}
)

const (
	front1, front2 = "192.0.2.21", "192.0.2.22"
	from1, from2   = "192.0.2.11", "192.0.2.12" // whence the web servers are asked by serv1, serv2
)

func newBalancers(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, "haproxy", Disk{Filled: []string{"/etc"}, Bare: []string{"/var/log"}}, "haproxy", "curl", "start-stop-daemon")
	c.webServer("web1", "192.0.2.31")
	c.webServer("web2", "192.0.2.32")
	c.start(lab.Serv1, lab.Serv2)
	c.awaitOwners(eachAtHome, lab.Serv1, lab.Serv2)
	return c
}

// webServer has one of the servers behind the balancers where the client is. It tells who it is and who asks.
func (c *cluster) webServer(name, addr string) {
	c.t.Helper()
	var l net.Listener
	must(c.t, c.Do(lab.Client, func() (err error) {
		if out, err := exec.Command("ip", "address", "add", addr+"/24", "dev", "eth0").CombinedOutput(); err != nil {
			return fmt.Errorf("add %s: %w: %s", addr, err, out)
		}
		l, err = net.Listen("tcp4", addr+":80")
		return err
	}))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asker, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s asked by %s for %s", name, asker, r.Header.Get("X-Forwarded-For"))
	})}
	go func() { _ = s.Serve(l) }() // until it is closed
	c.t.Cleanup(func() { s.Close() })
}

// awaitBalanced returns when both web servers have answered at an address, asked by that balancer.
func (c *cluster) awaitBalanced(addr, by string) {
	c.t.Helper()
	missing := map[string]bool{}
	for _, web := range []string{"web1", "web2"} {
		missing[fmt.Sprintf("%s asked by %s for 192.0.2.100", web, by)] = true
	}
	c.await(addr+" is answered through "+by, func() error {
		got, err := c.ask(nil, "curl", "-sS", "--fail", "-m", "2", "http://"+addr+"/")
		if err != nil {
			return err
		}
		delete(missing, got)
		if len(missing) > 0 {
			return fmt.Errorf("missing: %v; the last answer: %q", missing, got)
		}
		return nil
	})
}

func TestTheOtherLoadBalancerServesBothAddresses(t *testing.T) {
	c := newBalancers(t)
	c.awaitBalanced(front1, from1)
	c.awaitBalanced(front2, from2)
	c.breaks(lab.FaultPower, lab.Serv1)
	c.awaitOwners(allOnServ2, lab.Serv2)
	c.awaitBalanced(front1, from2)
	c.awaitBalanced(front2, from2)
	c.heals(lab.FaultPower, lab.Serv1)
	c.awaitOwners(allOnServ2, lab.Serv1, lab.Serv2)
}

func TestALoadBalancerThatCannotBeKeptUpGivesItsAddressAway(t *testing.T) {
	c := newBalancers(t)
	must(t, os.WriteFile(Path(c.Node(lab.Serv2), "/etc/haproxy/xdpha.cfg"), []byte("no configuration\n"), 0o644))
	pid := strings.TrimSpace(c.run(lab.Serv2, "cat", "/run/haproxy.pid"))
	c.run(lab.Serv2, "kill", "-KILL", pid)
	c.await("serv1 has both addresses", func() error {
		s, err := c.status(lab.Serv1)
		if err == nil {
			err = atRest(s, allOnServ1, false)
		}
		return err
	})
	c.awaitBalanced(front2, from1)
	c.awaitBalanced(front1, from1)
}
