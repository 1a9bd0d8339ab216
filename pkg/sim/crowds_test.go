// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"strings"
	"testing"
)

func TestCrowds(t *testing.T) {
	for _, kind := range CrowdKinds {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			f := Crowds(kind, "", Limits{Depth: 8, States: 30_000})
			t.Logf("%d states, to a depth of %d", f.States, f.Depth)
			if f.Wrong != "" {
				t.Errorf("%s:\n%s", f.Wrong, strings.Join(f.Story, "\n"))
			}
		})
	}
}
