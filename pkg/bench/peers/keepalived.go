// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/pkg/bench/pair"
	"github.com/xdpha/xdpha/pkg/lab"
)

// Package is where keepalived comes from, on Debian.
const Package = "keepalived"

// ErrNotInstalled is that there is nobody to compare with.
var ErrNotInstalled = errors.New("keepalived is not installed (Debian's package " + Package + ": scripts/setup --peers)")

// keepalived is one configuration of it.
type keepalived struct {
	title    string
	program  string
	home     int  // the priority of the address's home
	away     int  // and of the other node
	vmac     bool // the address keeps its MAC, as xdpha's does
	adverts  int  // missed ones until the master counts as dead; 0 is the RFC's three and a skew
	troubles []Fault
}

// findKeepalived returns the program and what it says of its version.
func findKeepalived(ctx context.Context) (path, version string, err error) {
	if path, err = exec.LookPath("keepalived"); err != nil {
		path = "/usr/sbin/keepalived" // seldom in a user's PATH
	}
	if _, err := os.Stat(path); err != nil {
		return "", "", ErrNotInstalled
	}
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("ask keepalived for its version: %w: %s", err, out)
	}
	version, _, _ = strings.Cut(string(out), "\n")
	return path, version, nil
}

// variants are the configurations that are measured.
func variants(program string) []contender {
	return []contender{
		keepalived{title: nameVMAC, program: program, home: 254, away: 253, vmac: true, troubles: []Fault{Rest, Hang, Kill, KillWorker, Stop}},
		keepalived{title: namePlain, program: program, home: 254, away: 253, troubles: []Fault{Rest, Hang, Kill, Stop}},
		keepalived{title: nameUsual, program: program, home: 150, away: 100, vmac: true, troubles: []Fault{Rest, Hang}},
		keepalived{title: nameEager, program: program, home: 254, away: 253, vmac: true, adverts: 2, troubles: []Fault{Rest, Hang}},
	}
}

func (k keepalived) name() string { return k.title }

func (k keepalived) faults() []Fault { return k.troubles }

// keepalivedConf is as fast as keepalived goes. state BACKUP on both with preemption
// lets the address go home by itself after a fault. But for one variant, with the manual's
// priorities, they are the highest below an address owner's (255), which make the skew,
// (256-priority)/256 of an interval, least. The virtual MAC is that of xdpha's identity. No second burst of
// gratuitous ARP after 5 s: a round is shorter.
var keepalivedConf = template.Must(template.New("keepalived.conf").Parse(`global_defs {
    router_id {{.Node}}
    vrrp_version 3
    vrrp_rt_priority 50
    vrrp_rlimit_rttime 1000000
    max_auto_priority 99
    vrrp_no_swap
    vrrp_skip_check_adv_addr
    vrrp_garp_master_delay 0
}

vrrp_instance {{.Name}} {
    state BACKUP
    interface eth0
{{- if .VMAC}}
    use_vmac vrrp {{.MAC}}
{{- end}}
    virtual_router_id 21
    priority {{.Priority}}
    advert_int 0.01
{{- with .Adverts}}
    down_timer_adverts {{.}}
{{- end}}
    virtual_ipaddress {
        {{.Address}}/24
    }
}
`))

func (k keepalived) conf(n *lab.Node) ([]byte, error) {
	m, priority := identity.MAC, k.away
	if n.Name == identity.Home {
		priority = k.home
	}
	var b bytes.Buffer
	err := keepalivedConf.Execute(&b, map[string]any{
		"Node": n.Name, "Name": identity.Name, "VMAC": k.vmac, "Priority": priority, "Adverts": k.adverts, "Address": address,
		"MAC": fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]),
	})
	return b.Bytes(), err
}

// start runs only the VRRP part, in the foreground, with its own files in the node's
// directory; it logs what happens, but not in detail.
func (k keepalived) start(l *lab.Lab) error {
	for _, n := range l.Nodes {
		if err := l.Do(n.Name, announceOwn); err != nil {
			return fmt.Errorf("prepare %s: %w", n.Name, err)
		}
		conf, err := k.conf(n)
		if err != nil {
			return fmt.Errorf("write configuration of %s: %w", n.Name, err)
		}
		path := filepath.Join(n.Dir, "keepalived.conf")
		if err := os.WriteFile(path, conf, 0o600); err != nil { // it refuses one that others may write
			return fmt.Errorf("write configuration of %s: %w", n.Name, err)
		}
		err = n.StartProgram(k.program, "--dont-fork", "--vrrp", "--log-console", "--no-syslog",
			"--use-file", path, "--pid", pidFile(n, false), "--vrrp_pid", pidFile(n, true))
		if err != nil {
			return err
		}
	}
	return nil
}

// announceOwn keeps the virtual address out of the ARP requests that the node sends by its
// NIC, with the NIC's MAC: clients would learn that one, and after a fault wait seconds
// until they ask again. Whoever runs keepalived with a virtual MAC on a server sets this.
func announceOwn() error {
	return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/arp_announce", []byte("2"), 0)
}

func pidFile(n *lab.Node, worker bool) string {
	if worker {
		return filepath.Join(n.RunDir, "vrrp.pid")
	}
	return filepath.Join(n.RunDir, "keepalived.pid")
}

// settle: the home node preempts by itself, and a node that is no master gives up the address.
func (k keepalived) settle(_ context.Context, l *lab.Lab) (string, error) {
	if err := pair.Ended(l); err != nil {
		return "", err
	}
	who, err := holders(l, address)
	if err != nil {
		return "", err
	}
	if !slices.Equal(who, []string{identity.Home}) {
		return fmt.Sprintf("%s is on %v, not on %s alone", address, who, identity.Home), nil
	}
	return "", nil
}

// signal reaches the parent, which leads a process group of its own, together with its
// VRRP process, or only the latter. (A killed parent alone takes its child with it in good order.)
func (k keepalived) signal(n *lab.Node, sig unix.Signal, worker bool) error {
	b, err := os.ReadFile(pidFile(n, worker))
	if err != nil {
		return fmt.Errorf("signal keepalived of %s: %w", n.Name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("signal keepalived of %s: %q is no process", n.Name, b)
	}
	if !worker {
		pid = -pid
	}
	if err := unix.Kill(pid, sig); err != nil {
		return fmt.Errorf("signal keepalived of %s: %w", n.Name, err)
	}
	return nil
}
