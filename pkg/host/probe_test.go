// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestTheProbeLeavesTheHostAsItIs(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("XDPHA_REQUIRE_ROOT") != "1" {
		t.Skip("needs root")
	}
	devices := func() (names []string) {
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "veth" {
				names = append(names, l.Attrs().Name)
			}
		}
		return names
	}
	mode, err := ProbePace(240, time.Millisecond)
	if err != nil || mode != PaceFq && mode != PaceTbf {
		t.Errorf("paces by %q, %v", mode, err)
	}
	if now := devices(); slices.Contains(now, "probe") || slices.Contains(now, "probe-end") {
		t.Errorf("the host has %v", now)
	}
}
