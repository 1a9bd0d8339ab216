// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"slices"
	"testing"
)

func TestASpreadIsOfAnyOrder(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(100 - i)
	}
	for _, c := range []struct {
		name string
		ns   []int64
		want Spread
	}{
		{"nothing", nil, Spread{}},
		{"one", []int64{7}, Spread{7, 7, 7, 7}},
		{"two", []int64{4, 2}, Spread{3, 4, 4, 4}},
		{"three", []int64{3, 1, 2}, Spread{2, 3, 3, 3}},
		{"a hundred", hundred, Spread{50, 90, 99, 100}},
	} {
		before := slices.Clone(c.ns)
		if got := Of(c.ns); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if !slices.Equal(before, c.ns) {
			t.Errorf("%s: what was measured is now in another order", c.name)
		}
	}
	if got := MS(1_234_567); got != "1.23 ms" {
		t.Errorf("a duration is printed as %q", got)
	}
}
