// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/xdpha/xdpha/loader"
	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/host"
	"github.com/xdpha/xdpha/pkg/privilege"
)

func checkCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "configuration and host: what is missing, and what each failure would do",
		Description: `Reads the configuration, prints the timings that follow from it and what would happen in each
failure, and then looks at this host: kernel features, capabilities, NICs, whether the kernel can pace.
It changes nothing; the kernel may load a module for what is tried.

   xdpha check
   xdpha check --config ./new.yaml --node serv2      another file, as another node sees it
   xdpha check --config-only                         without looking at this host
   xdpha check --json | jq .warnings
   xdpha check --history                             asks the daemon how near the last hour's silences came
                                                     to a takeover, and which dead_after that supports

Mistakes in the file are shown with file:line:column, the line, and what to write instead; all
of them at once. Exit status 2 for those, 1 if the host lacks something, 0 if all is well.
With --history it is 1 if no daemon runs, or if a silence came to 80 % of dead_after or more.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{DisableDefaultText: true, Name: "config-only", Usage: "do not look at this host"},
			&cli.BoolFlag{DisableDefaultText: true, Name: "history", Usage: "near misses of the last hour, instead of configuration and host"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			if c.Bool("history") {
				if c.Bool("config-only") {
					return usagef("check: --history asks the daemon, --config-only looks at the file alone: one of them")
				}
				return withClient(c, func(ctx context.Context, cl *control.Client) error { return checkHistory(ctx, env, cl, c.Bool("json")) })
			}
			cfg, err := loadConfig(c)
			if err != nil {
				return err
			}
			r := newCheckReport(cfg)
			if !c.Bool("config-only") {
				r.Host = append(hostChecks(cfg, c.String("pin-dir")), fenceChecks(c.Context, cfg)...)
				r.Host = append(r.Host, serviceChecks(c.Context, cfg, c.String("state-dir"))...)
				r.Host = append(r.Host, mirrorChecks(c.Context, cfg)...)
			}
			if c.Bool("json") {
				err = json.NewEncoder(env.Stdout).Encode(r)
			} else {
				_, err = io.WriteString(env.Stdout, checkText(r))
			}
			if err == nil && !r.good() {
				err = errBadNews
			}
			return err
		},
	}
}

// checkReport is what `xdpha check --json` prints.
type checkReport struct {
	Config     string          `json:"config"`
	Cluster    string          `json:"cluster"`
	Node       string          `json:"node"`
	Peer       string          `json:"peer,omitempty"` // of a pair
	Peers      []string        `json:"peers"`
	Digest     string          `json:"digest"` // all nodes must print the same
	Parts      []checkPart     `json:"parts"`  // of what the digest is of: where they differ if it does
	Timing     checkTiming     `json:"timing"`
	Identities []checkIdentity `json:"identities"`
	Failures   []failure       `json:"failures"`
	Limits     []string        `json:"limits,omitempty"` // of more than two nodes
	Warnings   []string        `json:"warnings"`
	Host       []hostCheck     `json:"host"`
}

type checkPart struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

type checkTiming struct {
	Profile           string `json:"profile"`
	ProbeUS           int64  `json:"probe_us"`
	SuspectAfterUS    int64  `json:"suspect_after_us"`
	DeadAfterUS       int64  `json:"dead_after_us"`
	ConfirmProbes     int    `json:"confirm_probes"`
	SupervisorLeaseUS int64  `json:"supervisor_lease_us"`
	BootHoldUS        int64  `json:"boot_hold_us"`
	// Right is the right to serve; nil if none is asked for: with arbiter none, or fence alone.
	Right            *checkRight `json:"right_to_serve,omitempty"`
	SupervisorLostUS int64       `json:"supervisor_lost_us"`
	SupervisorLost   string      `json:"supervisor_lost"` // takeover | wait
	Pacer            string      `json:"pacer"`
	Arbiter          string      `json:"arbiter"`
	// Once is of what must run once; nil: nothing must.
	Once *checkOnce `json:"services_run_once,omitempty"`

	who string // acts on a lost supervisor
}

// checkRight shows that a right to serve ends before the peer may take over:
// L(1+ρ)+ε < Δ(1−ρ), with Δ the dead_after.
type checkRight struct {
	ServeForUS int64   `json:"serve_for_us"` // L
	LingerUS   int64   `json:"linger_us"`    // ε
	ClockError float64 `json:"clock_error"`  // ρ
	EndsUS     float64 `json:"ends_us"`      // at the latest: the left side
	PeerUS     float64 `json:"peer_us"`      // takes over at the earliest: the right side
	Holds      bool    `json:"holds"`
}

type checkIdentity struct {
	Name      string   `json:"name"`
	Home      string   `json:"home"`
	Prefer    []string `json:"prefer"` // who takes it when its home cannot, in this order
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
	Count     int      `json:"count"`
	Services  []string `json:"services"`
	Failback  string   `json:"failback"`
	Carrier   string   `json:"carrier,omitempty"` // the NIC that carries it on this node; none if it never comes here
}

type failure struct {
	Failure string `json:"failure"`
	Effect  string `json:"effect"`
}

type hostCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // only if not OK
}

func (r checkReport) good() bool {
	for _, h := range r.Host {
		if !h.OK {
			return false
		}
	}
	return true
}

func newCheckReport(cfg *config.Config) checkReport {
	r := checkReport{
		Config: cfg.Path, Cluster: cfg.Cluster, Node: cfg.Nodes[cfg.Self].Name,
		Digest:   fmt.Sprintf("%08x", cfg.Digest),
		Timing:   newCheckTiming(cfg),
		Warnings: warnings(cfg), Host: []hostCheck{},
	}
	for _, i := range cfg.Others() {
		r.Peers = append(r.Peers, cfg.Nodes[i].Name)
	}
	if cfg.Many() {
		r.Failures, r.Limits = manyFailures(cfg), manyLimits(cfg)
	} else {
		r.Failures, r.Peer = failures(cfg), r.Peers[0]
	}
	for _, p := range cfg.Parts() {
		if p.Name != "" {
			r.Parts = append(r.Parts, checkPart{p.Name, fmt.Sprintf("%03x", p.Digest)})
		}
	}
	for _, id := range cfg.Identities {
		ci := checkIdentity{
			Name: id.Name, Home: cfg.Nodes[id.Home].Name, MAC: net.HardwareAddr(id.MAC[:]).String(), Count: id.Count(),
			Services: append([]string{}, id.Services...), Failback: id.Failback, Prefer: cfg.StandIns(&id), Carrier: carrier(cfg, cfg.Self, id),
		}
		for _, a := range id.Addresses {
			ci.Addresses = append(ci.Addresses, a.String())
		}
		r.Identities = append(r.Identities, ci)
	}
	return r
}

func newCheckTiming(cfg *config.Config) checkTiming {
	t := cfg.Timing
	out := checkTiming{
		Profile: t.Profile, ProbeUS: t.Probe.Microseconds(), SuspectAfterUS: t.SuspectAfter.Microseconds(), DeadAfterUS: t.DeadAfter.Microseconds(),
		ConfirmProbes: t.ConfirmProbes, SupervisorLeaseUS: t.SupervisorLease.Microseconds(), BootHoldUS: t.BootHold.Microseconds(),
		SupervisorLostUS: t.SupervisorLost.Microseconds(), SupervisorLost: control.PolicyWait, Pacer: t.Pacer, Arbiter: cfg.Arbiter.Kind(), Once: newCheckOnce(cfg), who: "this node",
	}
	if t.DemandIfLost {
		out.SupervisorLost = control.PolicyTakeover
	}
	if cfg.Many() {
		out.who = "the next candidate"
	}
	if cfg.Arbiter.AsksForRight() {
		const micro = float64(time.Microsecond)
		out.Right = &checkRight{
			ServeForUS: t.ServeFor.Microseconds(), LingerUS: t.Linger.Microseconds(), ClockError: config.ClockError, Holds: t.RightEnds(),
			EndsUS: (float64(t.ServeFor)*(1+config.ClockError) + float64(t.Linger)) / micro, PeerUS: float64(t.DeadAfter) * (1 - config.ClockError) / micro,
		}
	}
	return out
}

// carrier names the NIC that carries an identity on a node; "" if it never comes there.
func carrier(cfg *config.Config, node int, id config.Identity) string {
	n := cfg.Nodes[node]
	if !id.Candidate(node) {
		return ""
	}
	if id.Home == node || n.Spare == "" {
		return n.Lan
	}
	return n.Spare
}

func hostChecks(cfg *config.Config, pinDir string) []hostCheck {
	self := cfg.Nodes[cfg.Self]
	nics := []string{self.Crossover, self.Lan}
	if self.Spare != "" {
		nics = append(nics, self.Spare)
	}
	out := heldChecks(privilege.Needed)
	for _, c := range append(loader.Probe(nics), loader.ProbePins(pinDir)) {
		h := hostCheck{Name: c.Name, OK: c.OK, Detail: c.Detail}
		if !c.OK {
			h.Remedy = c.Remedy
		}
		out = append(out, h)
	}
	mode, err := "", error(nil)
	if cfg.Timing.Pacer != config.PacerThread {
		mode, err = host.ProbePace(loader.TokenBytes, host.Lap(cfg.Timing.Probe))
	}
	return append(out, paceCheck(cfg.Timing.Pacer, mode, err))
}

// heldChecks looks at what this process may do, and says what each is for.
func heldChecks(list []privilege.Capability) []hostCheck {
	out := []hostCheck{}
	for _, c := range list {
		held, err := c.Held()
		h := hostCheck{Name: c.Name, OK: held, Detail: "held, " + c.Why}
		switch {
		case err != nil:
			h.Detail, h.Remedy = err.Error(), c.Remedy()
		case !held:
			h.Detail, h.Remedy = "missing, "+c.Why, c.Remedy()
		}
		out = append(out, h)
	}
	return out
}

// paceCheck says who can pace the probes here. What cannot be looked at is not wrong.
func paceCheck(want, mode string, err error) hostCheck {
	h := hostCheck{Name: "pacer " + want, OK: true}
	switch {
	case want == config.PacerThread:
		h.Detail = "a thread of the daemon; a late one makes detection late"
		if held, err := privilege.Realtime.Held(); err == nil && !held {
			h.Detail += "; " + privilege.Realtime.Name + " is missing, " + privilege.Realtime.Why
		}
	case err == nil:
		h.Detail = "the kernel can, by " + mode
	case errors.Is(err, unix.EPERM):
		h.Detail = "not tried: a network namespace to try it in needs CAP_SYS_ADMIN"
	case want == config.PacerAuto:
		h.Detail = "a thread of the daemon will: " + err.Error()
	default:
		h.OK, h.Detail, h.Remedy = false, err.Error(), "load sch_fq or sch_tbf, or write pacer: auto"
	}
	return h
}

// stagingAheadCaveat is what staging: ahead costs; pkg/host's StageAddresses says why.
const stagingAheadCaveat = "on the standby a program cannot bind to its IPv4 addresses before the takeover (but with IP_FREEBIND), and netfilter's addrtype LOCAL does not match them"

// warnings tells of what is allowed and may surprise.
func warnings(cfg *config.Config) []string {
	out := []string{}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch hosts := len(cfg.Arbiter.Reach); {
	case cfg.Arbiter.Etcd != nil:
		if n := len(cfg.Arbiter.Etcd.Endpoints); n < 3 {
			add("arbiter etcd lists %d of its members: one that fails may stop a takeover; list three or more that do not fail together", n)
		}
		if strings.HasPrefix(cfg.Arbiter.Etcd.Endpoints[0], "http:") {
			add("arbiter etcd is asked without TLS: whoever reaches its network decides who serves; write https endpoints and tls")
		}
	case cfg.Arbiter.None:
		add("arbiter none: if the nodes are both alive and cannot hear each other, both own everything; list hosts under arbiter: reach, or write arbiter: fence")
	case hosts > 0 && hosts < 3:
		add("arbiter reach lists %d: a majority of that is %d, so one silent host may stop a takeover; list three or more that do not fail together", hosts, hosts/2+1)
	}
	out = append(out, fenceWarnings(cfg)...)
	for _, a := range cfg.Arbiter.Reach {
		if !cfg.Nodes[cfg.Self].LanAddr.Contains(a) {
			add("arbiter host %s is outside of %s: it can only be heard through a router", a, cfg.Nodes[cfg.Self].LanAddr.Masked())
		}
	}
	for _, n := range cfg.Nodes {
		if n.Spare == "" {
			add("%s has no spare: its lan NIC (%s) carries taken-over identities too, and the switch behind it is a single point of failure", n.Name, n.Lan)
		}
	}
	homes := map[int]bool{}
	for _, id := range cfg.Identities {
		homes[id.Home] = true
	}
	if len(homes) == 1 && len(cfg.Identities) > 1 {
		others := "the other node only stands by"
		if cfg.Many() {
			others = "the other nodes only stand by"
		}
		add("all identities are at home on %s: %s", cfg.Nodes[cfg.Identities[0].Home].Name, others)
	}
	for _, name := range idle(cfg) {
		add("%s is neither home to an identity nor in any prefer: it serves nothing, whatever happens", name)
	}
	for _, id := range cfg.Identities {
		if id.StagingAhead {
			add("%s is staged ahead: %s", id.Name, stagingAheadCaveat)
		}
	}
	for _, s := range cfg.Services {
		if !s.Checked() {
			add("service %s has no check: it counts as up from its start on, whatever happens to it", s.Name)
		}
	}
	if name, _, err := net.SplitHostPort(cfg.Metrics.Listen); err == nil {
		if ip := net.ParseIP(name); ip == nil || !ip.IsLoopback() {
			add("metrics listen on %s, not only on this host: whoever reaches it can read them", cfg.Metrics.Listen)
		}
	}
	return out
}

// failures says what each failure would do to a pair, as this configuration has it.
func failures(cfg *config.Config) []failure {
	t := cfg.Timing
	out := []failure{}
	for i, n := range cfg.Nodes {
		o := cfg.Nodes[1-i]
		moved := homesAt(cfg, i)
		lead := fmt.Sprintf("%s hears nothing for %s on any path, %s,%s", o.Name, t.DeadAfter, arbiterWords(cfg), spaced(fenceWords(cfg, i)))
		if len(moved) == 0 {
			out = append(out, failure{n.Name + " loses power, or its kernel dies", fmt.Sprintf("nothing moves: %s is home to nothing", n.Name)})
			continue
		}
		out = append(out, failure{
			n.Name + " loses power, or its kernel dies",
			fmt.Sprintf("%s and takes %s on %s with the same MAC%s", lead, strings.Join(moved, ", "), carrierOf(o), thenStarts(cfg, i)),
		})
		out = append(out, failure{
			fmt.Sprintf("the lan NIC %s of %s, its cable or its switch", n.Lan, n.Name),
			lanLost(cfg.Timing, n, strings.Join(moved, ", "), fmt.Sprintf("%s hands %s over to %s (%s), as planned, over a link that is left", n.Name, strings.Join(moved, ", "), o.Name, carrierOf(o))),
		})
	}
	alone := "the gates stay open, because nobody else could serve"
	if !t.SoloKeep {
		alone = "the gates close all the same (solo_without_supervisor: close)"
	}
	out = append(out,
		failure{"the daemon of one node is killed, stopped or hangs", lostWords(t) + ". If the other node is dead: " + alone},
		failure{"the crossover cable", "nothing moves; an event and a metric tell of it"})
	if cfg.Nodes[0].Spare != "" && cfg.Nodes[1].Spare != "" {
		out = append(out, failure{acrossFailure, acrossWords + "; the trunk: nothing moves; a switch: each node's NIC on the other one carries what it owns"})
	}
	out = append(out,
		failure{"all paths between the nodes, both nodes alive", partitionWords(cfg)},
		failure{"a service's check turns bad", "restarted in place as often as its restart window allows, then its identity moves; see the restart of each service"},
	)
	return out
}

// What becomes of nodes of which each has its spare NIC on the switch of the other's lan NIC.
const (
	acrossFailure = "the crossover cable, and the trunk between the switches or one of these"
	acrossWords   = "the nodes hear each other across, from lan NIC to spare NIC, on the switch that is left: neither is called dead"
)

// lanLost says what becomes of what a node serves when it loses its lan NIC, and how it is handed over when
// it has no other.
func lanLost(t config.Timing, n config.Node, moved, handedOver string) string {
	if n.Spare == "" {
		return handedOver
	}
	return fmt.Sprintf("its spare NIC (%s) carries %s until the lan NIC has been well for %s; services and connections go on; with both NICs lost, %s",
		n.Spare, moved, t.UpDelay, handedOver)
}

// lostWords says what becomes of a node whose kernel is left without its daemon.
func lostWords(t config.Timing) string {
	if t.DemandIfLost {
		return fmt.Sprintf("its kernel goes on; back within %s, nothing has happened; if not, the other node demands of that kernel what it owns, and takes it; after supervisor_lease, %s, it releases it by itself", t.SupervisorLost, t.SupervisorLease)
	}
	return fmt.Sprintf("its kernel goes on for supervisor_lease, %s; back by then, nothing has happened; if not, its kernel releases what it owns and the other one takes it", t.SupervisorLease)
}

func carrierOf(n config.Node) string {
	if n.Spare != "" {
		return n.Spare
	}
	return n.Lan
}

func homesAt(cfg *config.Config, node int) []string {
	var out []string
	for _, id := range cfg.Identities {
		if id.Home == node {
			out = append(out, id.Name)
		}
	}
	return out
}

// thenStarts lists the services that move with a node's identities.
func thenStarts(cfg *config.Config, node int) string {
	var out []string
	for _, id := range cfg.Identities {
		if id.Home == node {
			out = append(out, id.Services...)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "; then it starts " + strings.Join(out, ", ")
}

func spaced(s string) string {
	if s != "" {
		s = " " + s
	}
	return s
}

func arbiterWords(cfg *config.Config) string {
	if cfg.Arbiter.Etcd != nil {
		return "has won the identity's key in etcd"
	}
	n := len(cfg.Arbiter.Reach)
	if n == 0 {
		return fmt.Sprintf("asks nobody (arbiter %s)", cfg.Arbiter.Kind())
	}
	return fmt.Sprintf("reaches at least %d of the %d listed hosts", n/2+1, n)
}

func partitionWords(cfg *config.Config) string {
	if cfg.Arbiter.None {
		return "both own everything until a frame passes again; then the higher generation wins (arbiter none)"
	}
	if cfg.Arbiter.Fence != nil {
		return fencedPartition(cfg)
	}
	if e := cfg.Arbiter.Etcd; e != nil {
		return fmt.Sprintf("who owns an identity asks etcd for its key first and keeps it; a node that does not reach etcd closes its gates, and after at most %s the other one may win its keys; never two owners", e.TTL)
	}
	n := len(cfg.Arbiter.Reach)
	return fmt.Sprintf("a node that reaches fewer than %d of the %d listed hosts closes its gates; two owners only if both reach them and not one frame passes between the nodes", n/2+1, n)
}

// checkText is the report for people.
func checkText(r checkReport) string {
	var b strings.Builder
	peers, all := "peer "+r.Peer, "both nodes"
	if r.Peer == "" {
		peers, all = "peers "+strings.Join(r.Peers, ", "), "every node"
	}
	fmt.Fprintf(&b, "%s: cluster %s, this node is %s, its %s; digest %s (the same on %s)\n", r.Config, r.Cluster, r.Node, peers, r.Digest, all)
	for i, p := range r.Parts {
		fmt.Fprintf(&b, "%s%s %s", map[bool]string{true: "  of ", false: ", "}[i == 0], p.Name, p.Digest)
	}
	b.WriteString("\n")
	timingText(&b, r.Timing)
	identitiesText(&b, r)
	b.WriteString("\nwhat would happen\n")
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "  %s\n    → %s\n", f.Failure, f.Effect)
	}
	if len(r.Limits) > 0 {
		b.WriteString("\nlimits of more than two nodes\n")
		for _, l := range r.Limits {
			fmt.Fprintf(&b, "  - %s\n", l)
		}
	}
	if len(r.Warnings) > 0 {
		b.WriteString("\nwarnings\n")
		for _, w := range r.Warnings {
			fmt.Fprintf(&b, "  ! %s\n", w)
		}
	}
	hostText(&b, r.Host)
	return b.String()
}

// identitiesText lists them; of more than two nodes it says who takes each in which order.
func identitiesText(b *strings.Builder, r checkReport) {
	b.WriteString("\nidentities\n")
	table(b, func(w io.Writer) {
		for _, id := range r.Identities {
			home, here := "home "+id.Home, "on "+id.Carrier+" here"
			if r.Peer == "" {
				home += ", then " + strings.Join(id.Prefer, ", ")
			}
			if id.Carrier == "" {
				here = "never here"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\tfailback %s\t%s\t%s\n", id.Name, home, id.MAC, here, id.Failback, shortList(id.Addresses, 3), servicesWord(id.Services))
		}
	})
}

func timingText(b *strings.Builder, t checkTiming) {
	fmt.Fprintf(b, "\ntiming, profile %s\n", t.Profile)
	table(b, func(w io.Writer) {
		fmt.Fprintf(w, "probe\t%s\ton every link; pacer: %s\n", us(t.ProbeUS), t.Pacer)
		fmt.Fprintf(w, "suspect after\t%s\tsilence on all paths; derived\n", us(t.SuspectAfterUS))
		fmt.Fprintf(w, "dead after\t%s\tsilence, at least %d own probes unanswered (derived) among it\n", us(t.DeadAfterUS), t.ConfirmProbes)
		if r := t.Right; r != nil {
			fmt.Fprintf(w, "right to serve\t%s\tL, derived: so long after the peer's or the arbiter's last word the gates stay open\n", us(r.ServeForUS))
			fmt.Fprintf(w, "linger\t%s\tε: so long may a frame stay under way behind the gate\n", us(r.LingerUS))
			fmt.Fprintf(w, "clock error\t%g %%\tρ: so much faster or slower may a node's clock run\n", 100*r.ClockError)
		} else {
			fmt.Fprintf(w, "right to serve\t-\tnot asked for (arbiter %s)\n", t.Arbiter)
		}
		fmt.Fprintf(w, "supervisor lease\t%s\tas long a daemon may be away\n", us(t.SupervisorLeaseUS))
		fmt.Fprintf(w, "supervisor lost\t%s\tsilence of the peer's daemon, its kernel answering (derived); then: %s\n", us(t.SupervisorLostUS), policyWord(control.Policy{SupervisorLost: t.SupervisorLost}, t.who))
		fmt.Fprintf(w, "boot hold\t%s\ta peer that is not heard for that long after the start is dead\n", us(t.BootHoldUS))
		onceText(w, t.Once)
	})
	if r := t.Right; r != nil {
		fmt.Fprintf(b, "  the right ends before the peer takes over: L(1+ρ)+ε %s Δ(1−ρ), Δ being dead_after: %s %s %s\n", sign(r.Holds), micros(r.EndsUS), sign(r.Holds), micros(r.PeerUS))
	}
}

func sign(less bool) string { return map[bool]string{true: "<", false: "≥"}[less] }

// micros renders microseconds to the nanosecond.
func micros(us float64) time.Duration { return time.Duration(math.Round(us * 1e3)) }

func servicesWord(s []string) string {
	if len(s) == 0 {
		return "no services"
	}
	return "services " + strings.Join(s, ", ")
}

func hostText(b *strings.Builder, checks []hostCheck) {
	if len(checks) == 0 {
		return
	}
	b.WriteString("\nthis host\n")
	missing := 0
	for _, h := range checks {
		mark := "✓"
		if !h.OK {
			mark = "✗"
			missing++
		}
		fmt.Fprintf(b, "  %s %s: %s\n", mark, h.Name, h.Detail)
		if !h.OK {
			fmt.Fprintf(b, "      %s\n", h.Remedy)
		}
	}
	if missing > 0 {
		fmt.Fprintf(b, "\n%d of %d checks failed: xdpha run would not work here\n", missing, len(checks))
	}
}
