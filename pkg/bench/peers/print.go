// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/xdpha/xdpha/pkg/bench/stats"
)

func printHead(w io.Writer, r Report) error {
	who := r.Keepalived
	if who == "" {
		who = ErrNotInstalled.Error() + ", so xdpha is measured alone"
	}
	_, err := fmt.Fprintf(w, "Linux %s, %d CPUs; xdpha, profile %s; %s.\n", r.Kernel, r.CPUs, r.Profile, who)
	return err
}

// printTable is for people; Report as JSON is for programs.
func printTable(w io.Writer, r Report) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nfault\tcontender\trounds\tmedian\tp90\tmax\tdual answers\tboth answer ARP\tboth hold address\tunanswered ends\tmoved unasked")
	for _, f := range Faults {
		for _, s := range r.Series {
			if s.Fault == f {
				fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%d\n", f, s.Contender, len(s.Rounds), stats.MS(s.MedianNS), stats.MS(s.P90NS), stats.MS(s.MaxNS),
					s.DualAnswers, ofAsked(s.BothAnswer, s.Asked), ofAsked(s.BothHold, s.Asked), s.Unanswered, s.Unasked)
			}
		}
	}
	printRatios(t, r)
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, legend)
	return err
}

// printRatios leaves none out, and says which of them compare an owner with two.
func printRatios(w io.Writer, r Report) {
	if len(r.Ratios) > 0 {
		fmt.Fprintln(w, "\nmedian outage, as a multiple of xdpha's")
	}
	for _, f := range Faults {
		for _, x := range r.Ratios {
			if x.Fault != f {
				continue
			}
			remark := ""
			if x.TwoOwners {
				remark = "\twith two owners: the node that should not serve any more went on answering"
			}
			fmt.Fprintf(w, "%s\t%s\t%.2f%s\n", f, x.Contender, x.Value, remark)
		}
	}
}

const legend = `
Outage: the longest silence that the client saw, less its own stalls. Dual answers: echo replies by a node after the other one had
taken over from it. Both answer ARP, both hold address: rounds, of those in which the nodes were asked. xdpha has its addresses staged
on both nodes, behind the gate: what counts for it is who answers. "kill -9": nobody restarts the daemon; "worker": only keepalived's
VRRP process, which its parent restarts. Moved unasked: rounds in which the address left its home with nothing broken.
`

func ofAsked(n, asked int) string {
	if asked == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", n, asked)
}
