// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/plan"
)

func planCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "what the services use, and the split between the nodes that balances it",
		Description: `The daemon measures the CPU, memory and I/O of each service that runs on its node, by its cgroup, as long
as the service runs. An identity moves as a whole, and a concurrent service runs on every node. What
runs on the other node is measured there:

   ssh serv2 xdpha plan --json > serv2.json
   xdpha plan --with serv2.json
   xdpha plan --rate samba=1.5:2000      1.5 processors and 2000 MB, measured or not

It counts with the means; one node can carry everything if its processors and memory are enough.
Exit status 1 if no node can, or nothing is known of a service.`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "with", Usage: "what another node's xdpha plan --json said, a `FILE`"},
			&cli.StringSliceFlag{Name: "rate", Usage: "take `SERVICE=PROCESSORS:MEGABYTES` for a service's use"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			return withClient(c, func(ctx context.Context, client *control.Client) error {
				uses, err := client.Uses(ctx)
				if err != nil {
					return err
				}
				p, err := newPlanned(uses, c.StringSlice("with"), c.StringSlice("rate"))
				if err != nil {
					return err
				}
				if c.Bool("json") {
					err = json.NewEncoder(env.Stdout).Encode(p)
				} else {
					_, err = io.WriteString(env.Stdout, p.text())
				}
				if err == nil && p.bad() {
					err = errBadNews
				}
				return err
			})
		},
	}
}

// planned is what is known, and what follows of it.
type planned struct {
	Here  control.Uses          `json:"here"`  // as this node measured
	Uses  []control.Use         `json:"uses"`  // of all services, as counted with
	Nodes []plan.Node           `json:"nodes"` // in the configuration's order
	Moves []control.HomeOf      `json:"moves"` // to another home, to be balanced
	Alone map[string]planAlone  `json:"alone"` // by node
	Loads map[string][2]float64 `json:"loads"` // by node: now, and balanced; 1 is all that a node has
}

type planAlone struct {
	Load float64 `json:"load"`
	Fits bool    `json:"fits"`
}

func newPlanned(here control.Uses, files, rates []string) (*planned, error) {
	p := &planned{Here: here, Uses: slices.Clone(here.Services), Alone: map[string]planAlone{}, Loads: map[string][2]float64{}}
	has := map[string]plan.Use{here.Node: {CPU: float64(here.Processors), Memory: float64(here.Memory)}}
	for _, name := range files {
		other, err := readPlanned(name)
		if err != nil {
			return nil, err
		}
		has[other.Node] = plan.Use{CPU: float64(other.Processors), Memory: float64(other.Memory)}
		for i, u := range p.Uses {
			if k := slices.IndexFunc(other.Services, func(o control.Use) bool { return o.Service == u.Service }); k >= 0 && other.Services[k].MeasuredS > u.MeasuredS {
				p.Uses[i] = other.Services[k]
			}
		}
	}
	for _, rate := range rates {
		if err := p.rate(rate); err != nil {
			return nil, err
		}
	}
	for _, name := range here.Nodes {
		n := plan.Node{Name: name, Has: has[here.Node]} // as this one, if it has not been asked
		if h, ok := has[name]; ok {
			n.Has = h
		}
		p.Nodes = append(p.Nodes, n)
	}
	p.split()
	return p, nil
}

func readPlanned(name string) (control.Uses, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return control.Uses{}, fmt.Errorf("plan: %w", err)
	}
	var p planned
	if err := json.Unmarshal(b, &p); err != nil || p.Here.Node == "" {
		return control.Uses{}, usagef("plan: %s is not what xdpha plan --json says", name)
	}
	return p.Here, nil
}

// rate takes a rating that is given, as samba=1.5:2000.
func (p *planned) rate(s string) error {
	name, value, _ := strings.Cut(s, "=")
	var cpu, megabytes float64
	if n, err := fmt.Sscanf(value, "%g:%g", &cpu, &megabytes); err != nil || n != 2 || cpu < 0 || megabytes < 0 {
		return usagef("plan: --rate %s: write SERVICE=PROCESSORS:MEGABYTES, as in samba=1.5:2000", s)
	}
	i := slices.IndexFunc(p.Uses, func(u control.Use) bool { return u.Service == name })
	if i < 0 {
		return usagef("plan: --rate %s: no service is named %q", s, name)
	}
	u := p.Uses[i]
	p.Uses[i] = control.Use{Service: u.Service, Identity: u.Identity, Concurrent: u.Concurrent, CPU: cpu, Memory: uint64(megabytes * 1e6), Given: true}
	return nil
}

// split asks for the best homes.
func (p *planned) split() {
	var common plan.Use
	var ids []plan.Identity
	for _, h := range p.Here.Homes {
		ids = append(ids, plan.Identity{Name: h.Identity, Home: slices.Index(p.Here.Nodes, h.Home)})
	}
	for _, u := range p.Uses {
		use := useOf(u)
		if u.Concurrent {
			common = common.Plus(use)
		}
		for i := range ids {
			if ids[i].Name == u.Identity {
				ids[i].Use = ids[i].Use.Plus(use)
			}
		}
	}
	best := plan.Make(p.Nodes, ids, common)
	for i, home := range best.Best.Homes {
		if home != ids[i].Home {
			p.Moves = append(p.Moves, control.HomeOf{Identity: ids[i].Name, Home: p.Nodes[home].Name})
		}
	}
	for n, node := range p.Nodes {
		p.Alone[node.Name] = planAlone{best.Alone[n].Load, best.Alone[n].Fits}
		p.Loads[node.Name] = [2]float64{best.Now.Loads[n], best.Best.Loads[n]}
	}
}

func (p *planned) bad() bool {
	fits := false
	for _, a := range p.Alone {
		fits = fits || a.Fits
	}
	return !fits || slices.ContainsFunc(p.Uses, unknownUse)
}

func unknownUse(u control.Use) bool { return u.MeasuredS == 0 && !u.Given }

func useOf(u control.Use) plan.Use { return plan.Use{CPU: u.CPU, Memory: float64(u.Memory), IO: u.IO} }

// heaviest are the services by what they take of this node, the heaviest first.
func (p *planned) heaviest() (uses []control.Use, share func(control.Use) float64) {
	here := p.Nodes[slices.IndexFunc(p.Nodes, func(n plan.Node) bool { return n.Name == p.Here.Node })]
	share = func(u control.Use) float64 { return useOf(u).Share(here.Has) }
	uses = slices.Clone(p.Uses)
	slices.SortStableFunc(uses, func(a, b control.Use) int { return cmp.Compare(share(b), share(a)) })
	return uses, share
}

// homes are the identities of a node, now or balanced.
func (p *planned) homes(node string, balanced bool) string {
	var names []string
	for _, h := range p.Here.Homes {
		home := h.Home
		if i := slices.IndexFunc(p.Moves, func(m control.HomeOf) bool { return m.Identity == h.Identity }); balanced && i >= 0 {
			home = p.Moves[i].Home
		}
		if home == node {
			names = append(names, h.Identity)
		}
	}
	if names == nil {
		return "-"
	}
	return strings.Join(names, ", ")
}

func (p *planned) text() string {
	var b strings.Builder
	uses, share := p.heaviest()
	table(&b, func(w io.Writer) {
		fmt.Fprintf(w, "service\tidentity\tof %s\tprocessors\tpeak\tmemory\tI/O a second\tmeasured for\n", p.Here.Node)
		for _, u := range uses {
			of := u.Identity
			if u.Concurrent {
				of = "every node"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", u.Service, of, figures(u, share(u)))
		}
	})
	b.WriteString("\n")
	table(&b, func(w io.Writer) {
		fmt.Fprintln(w, "node\thome to\tload\tbalanced: home to\tload\talone with everything")
		for _, n := range p.Nodes {
			word := "it can"
			if !p.Alone[n.Name].Fits {
				word = "it cannot"
			}
			loads := p.Loads[n.Name]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s: %s\n", n.Name, p.homes(n.Name, false), percent(loads[0]), p.homes(n.Name, true), percent(loads[1]), percent(p.Alone[n.Name].Load), word)
		}
	})
	b.WriteString("\n")
	for _, u := range uses {
		if unknownUse(u) {
			fmt.Fprintf(&b, "not counted, for nothing is known of it: %s\n", u.Service)
		}
	}
	if len(p.Moves) == 0 {
		b.WriteString("no other homes are better than today's\n")
	}
	for _, m := range p.Moves {
		fmt.Fprintf(&b, "to balance it, write home: %s for %s\n", m.Home, m.Identity)
	}
	return b.String()
}

// figures are the columns of one service: what is not known has none, and a rating has no peaks.
func figures(u control.Use, share float64) string {
	switch {
	case unknownUse(u):
		return "-\t-\t-\t-\t-\tnot measured: see --with, --rate"
	case u.Given:
		return fmt.Sprintf("%s\t%.3f\t-\t%s\t-\tgiven", percent(share), u.CPU, byteText(u.Memory))
	}
	known := time.Duration(u.MeasuredS * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s\t%.3f\t%.3f\t%s\t%s\t%s", percent(share), u.CPU, u.CPUPeak, byteText(u.Memory), byteText(uint64(u.IO)), known)
}

func percent(part float64) string { return fmt.Sprintf("%.0f %%", 100*part) }
