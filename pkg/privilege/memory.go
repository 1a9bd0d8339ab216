// SPDX-License-Identifier: Apache-2.0

package privilege

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// HideMemory keeps the program's memory, and the secret in it, out of core dumps, whatever takes
// them, and from other processes of its user. Its children can be dumped as usual, which a limit
// on the size of cores would change for them too.
func HideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
