// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Check is one thing that the datapath needs of its host.
type Check struct {
	Name   string
	OK     bool
	Detail string // what was found
	Remedy string // what to do if it is not OK
}

// Probe looks for every kernel feature that the datapath needs, and at the named
// NICs. It changes nothing.
func Probe(nics []string) []Check {
	checks := []Check{
		feature("XDP programs", features.HaveProgramType(ebpf.XDP), "use Linux 6.1 or later with CONFIG_BPF_SYSCALL"),
		feature("BPF timers", features.HaveProgramHelper(ebpf.XDP, asm.FnTimerInit), "use Linux 6.1 or later"),
		feature("boot-time clock in BPF", features.HaveProgramHelper(ebpf.XDP, asm.FnKtimeGetBootNs), "use Linux 6.1 or later"),
		feature("BPF ring buffer", features.HaveMapType(ebpf.RingBuf), "use Linux 6.1 or later"),
		feature("BPF system-call programs", features.HaveProgramType(ebpf.Syscall), "use Linux 6.1 or later"),
		kernelTypes(), jit(),
	}
	for _, name := range nics {
		checks = append(checks, nic(name))
	}
	return checks
}

func feature(name string, err error, remedy string) Check {
	c := Check{Name: name, OK: err == nil, Detail: "present", Remedy: remedy}
	if err != nil {
		c.Detail = err.Error()
		if errors.Is(err, unix.EPERM) {
			c.Remedy = "run as root, or with the capabilities that are missing"
		}
	}
	return c
}

func kernelTypes() Check {
	_, err := btf.LoadKernelSpec()
	return feature("kernel type information (BTF)", err, "use a kernel with CONFIG_DEBUG_INFO_BTF")
}

func jit() Check {
	c := Check{Name: "BPF JIT", OK: true, Detail: "on", Remedy: "set net.core.bpf_jit_enable to 1: the interpreter is ten times slower"}
	b, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	if err == nil && strings.TrimSpace(string(b)) == "0" {
		c.OK, c.Detail = false, "off"
	}
	return c
}

// ownProgram is the name of ours, as the kernel keeps it.
const ownProgram = "xdpha_in"

// ProbePins looks whether pins can be kept in a directory.
func ProbePins(dir string) Check {
	c := Check{Name: "BPF file system", OK: true, Detail: "at " + filepath.Dir(dir)}
	if err := onBPFFS(filepath.Dir(dir)); err != nil {
		c.OK, c.Detail, c.Remedy = false, err.Error(), "mount -t bpf bpf "+filepath.Dir(dir)
	}
	return c
}

func nic(name string) Check {
	c := Check{Name: "NIC " + name}
	l, err := netlink.LinkByName(name)
	if err != nil {
		c.Detail, c.Remedy = err.Error(), "correct its name in the configuration, or plug it in"
		return c
	}
	a := l.Attrs()
	if a.Flags&net.FlagUp == 0 {
		c.Detail, c.Remedy = "is down", fmt.Sprintf("ip link set %s up", name)
		return c
	}
	if a.Xdp != nil && a.Xdp.Attached {
		name, tag, err := programInfo(a.Xdp.ProgId)
		c.OK, c.Detail = err != nil || name == ownProgram, fmt.Sprintf("up, MTU %d, an XDP program is on it (id %d)", a.MTU, a.Xdp.ProgId)
		if !c.OK {
			c.Detail = fmt.Sprintf("another XDP program is on it: id %d, name %q, tag %s", a.Xdp.ProgId, name, tag)
			c.Remedy = fmt.Sprintf("if nothing needs it, ip link set dev %s xdp off; else give xdpha another NIC", a.Name)
		}
		return c
	}
	c.OK, c.Detail = true, fmt.Sprintf("up, MTU %d, no XDP program on it", a.MTU)
	return c
}
