// SPDX-License-Identifier: Apache-2.0

package article

import (
	"fmt"
	"io"
	"text/tabwriter"
)

func (r Round) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\n%s at %s\nservice\taddress\toutage\tat rest\tfailed requests\tserved by\tdata\n", r.Fault, r.Node)
	for _, v := range r.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", v.Service, v.Address, seconds(v.OutageNs), seconds(v.RestNs), v.Failed, v.ServedBy, v.Data)
	}
	if r.Void {
		fmt.Fprintln(t, "VOID: an identity moved that nothing was done to: the machine stood still for too long")
	}
	for _, n := range r.Notes {
		fmt.Fprintln(t, n)
	}
	for _, n := range r.Wrong {
		fmt.Fprintln(t, "WRONG:", n)
	}
	return t.Flush()
}

func seconds(ns int64) string { return fmt.Sprintf("%.2f s", float64(ns)/1e9) }
