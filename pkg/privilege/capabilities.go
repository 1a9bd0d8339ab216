// SPDX-License-Identifier: Apache-2.0

package privilege

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Capability is one that the daemon uses.
type Capability struct {
	Name string
	Bit  uint
	Why  string
}

// Needed are the capabilities without which the daemon cannot run. A unit grants these and no other.
var Needed = []Capability{
	{"CAP_BPF", unix.CAP_BPF, "to load the kernel's programs and make their maps"},
	{"CAP_PERFMON", unix.CAP_PERFMON, "for the verifier to accept programs that compute with pointers into packets"},
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "to attach the programs to NICs, and for the identities' devices, addresses, rules and per-device sysctls"},
	{"CAP_NET_RAW", unix.CAP_NET_RAW, "to send announcements (gratuitous ARP, unsolicited NA) from the virtual MAC, and what makes clients notice a takeover"},
}

// Mirror are those that rsync needs, and gets, to keep files of other users as they are. The daemon
// needs them if there are mirror sets.
var Mirror = []Capability{
	{"CAP_CHOWN", unix.CAP_CHOWN, "to keep the mirrored files' owners"},
	{"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE, "to read and write the files of other users"},
	{"CAP_FOWNER", unix.CAP_FOWNER, "to keep modes, times and ACLs of other users' files"},
	{"CAP_FSETID", unix.CAP_FSETID, "to keep set-user-ID and set-group-ID bits"},
	{"CAP_MKNOD", unix.CAP_MKNOD, "to make device nodes, as those in a chroot"},
	{"CAP_SETFCAP", unix.CAP_SETFCAP, "to keep files' capabilities"},
}

// Realtime is of use to pacer: thread alone.
var Realtime = Capability{"CAP_SYS_NICE", unix.CAP_SYS_NICE, "to give the pacer's thread real-time priority"}

// Held reports whether the calling thread has the capability in effect.
func (c Capability) Held() (bool, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	return data[c.Bit/32].Effective&(1<<(c.Bit%32)) != 0, nil
}

// Remedy is what to do where the capability is missing.
func (c Capability) Remedy() string {
	return fmt.Sprintf("run as root, or give the unit AmbientCapabilities=%s and the same in CapabilityBoundingSet=", c.Name)
}

// Require refuses to go on without the capabilities, and names each that is missing.
func Require(list []Capability) error {
	var missing, names []string
	for _, c := range list {
		held, err := c.Held()
		if err != nil {
			return err
		}
		if !held {
			missing, names = append(missing, c.Name+", which is needed "+c.Why), append(names, c.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	all := strings.Join(names, " ")
	return fmt.Errorf("missing %s: run as root, or give the unit AmbientCapabilities=%s and the same in CapabilityBoundingSet=", strings.Join(missing, "; "), all)
}

// KeepForSelf takes what was granted as ambient out of the reach of children: services and hooks
// run as the daemon's user and need nothing of it. Root's children have everything all the same.
func KeepForSelf() error {
	ambient := false
	for bit := range uintptr(unix.CAP_LAST_CAP + 1) {
		set, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, bit, 0, 0)
		ambient = ambient || err == nil && set == 1 // EINVAL: the kernel is older than the capability
	}
	if !ambient {
		return nil
	}
	// Each thread has a set of its own, and any may start a child.
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("keep capabilities from children: %w: build the program with CGO_ENABLED=0", errno)
	}
	return nil
}
