// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
)

func printHead(w io.Writer, r Report) error {
	_, err := fmt.Fprintf(w, "Linux %s, %d CPUs. All of it over veth in network namespaces; round trips from a raw socket, all kinds by turns.\n", r.Kernel, r.CPUs)
	return err
}

func (x Ratio) print(w io.Writer) {
	verdict := ""
	if !x.Within {
		verdict = "  TOO SLOW"
	}
	fmt.Fprintf(w, "%s / %s\t%.2f\t%.1f%s\n", x.Of, x.To, x.Value, x.AtMost, verdict)
}

func us(ns int64) float64 { return float64(ns) / 1000 }
