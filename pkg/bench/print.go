// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

func printHead(w io.Writer, r Report) error {
	_, err := fmt.Fprintf(w, "Linux %s, %d CPUs. Round trips over veth from a raw socket, all kinds by turns.\n", r.Kernel, r.CPUs)
	return err
}

func printResult(w io.Writer, run int, r Result) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\nRun %d, XDP %s\nround trip\tmedian\tp99\tmax\tanswers\tlost\n", run, r.Mode)
	for _, x := range r.RoundTrips {
		fmt.Fprintf(t, "%s\t%.2f µs\t%.2f µs\t%.0f µs\t%d\t%d\n", x.Name, us(x.MedianNS), us(x.P99NS), us(x.MaxNS), x.Answers, x.Lost)
	}
	fmt.Fprintf(t, "\nratio of medians\t\tat most\n")
	for _, x := range r.Ratios {
		verdict := ""
		if !x.Within {
			verdict = "  TOO SLOW"
		}
		fmt.Fprintf(t, "%s / %s\t%.2f\t%.1f%s\n", x.Of, x.To, x.Value, Limit, verdict)
	}
	fmt.Fprintf(t, "\nin the program, a packet\t\tmeasured by\n")
	for _, x := range r.Costs {
		fmt.Fprintf(t, "%s\t%.0f ns\t%s\n", x.Name, x.NS, x.How)
	}
	return t.Flush()
}

func us(ns int64) float64 { return float64(ns) / 1000 }

func isMainThread() bool { return unix.Gettid() == unix.Getpid() }
