// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"os"

	"github.com/xdpha/xdpha/pkg/privilege"
)

// grant is what rsync gets of the daemon's capabilities; nothing where the daemon is root, whose
// children have them anyway.
func grant() (caps []uintptr) {
	if os.Geteuid() == 0 {
		return nil
	}
	for _, c := range privilege.Mirror {
		if held, err := c.Held(); err == nil && held {
			caps = append(caps, uintptr(c.Bit))
		}
	}
	return caps
}
