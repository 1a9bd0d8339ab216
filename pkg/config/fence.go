// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// Fence is how each node is switched off: by a fence agent, which is given parameters.
type Fence struct {
	Agent   string        // a name, looked for where distributions put agents, or an absolute path
	Timeout time.Duration // of one run of the agent
	Retries int           // how often it is run again before that is told as a failure
	Nodes   [2]FenceNode  // in the order of Config.Nodes
}

// FenceNode is how one node is switched off.
type FenceNode struct {
	Delay  time.Duration // for which the other node waits before it does so
	Params []FenceParam  // in the order of their names
}

// FenceParam is a parameter as the agent calls it.
type FenceParam struct {
	Name   string
	Value  string
	InFile bool // Value is the path of the file that holds it: a secret
}

// Bounds and defaults of a fence agent. An agent that talks to a management controller takes
// seconds; Pacemaker gives it a minute, too.
const (
	minFenceTimeout     = time.Second
	maxFenceTimeout     = 10 * time.Minute
	defaultFenceTimeout = time.Minute
	maxFenceRetries     = 10
	defaultFenceRetries = 1
	maxFenceDelay       = 10 * time.Minute
)

type rawFence struct {
	at      pos
	set     bool
	agent   value[string]
	timeout value[time.Duration]
	retries value[int]
	nodes   []rawFenceNode
}

type rawFenceNode struct {
	name   value[string]
	delay  value[time.Duration]
	params []rawParam
}

type rawParam struct{ name, value value[string] }

// fence reads the agent's own keys; every other key is a node.
func (d decoder) fence(f *rawFence) field {
	fields := []field{
		d.text("agent", &f.agent, "fence_ipmilan"),
		d.duration("timeout", &f.timeout, minFenceTimeout, maxFenceTimeout, "60s"),
		d.integer("retries", &f.retries, 0, maxFenceRetries),
	}
	return field{"fence", func(kv *ast.MappingValueNode) {
		f.at, f.set = at(kv), true
		d.entries(kv.Value, "fence", func(kv *ast.MappingValueNode, key string) {
			if i := slices.IndexFunc(fields, func(f field) bool { return f.key == key }); i >= 0 {
				fields[i].take(kv)
				return
			}
			f.nodes = append(f.nodes, d.fenceNode(value[string]{v: key, at: at(kv), set: true}, kv.Value))
		})
	}}
}

var paramRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

func (d decoder) fenceNode(name value[string], n ast.Node) rawFenceNode {
	r := rawFenceNode{name: name}
	delay := d.duration("delay", &r.delay, 0, maxFenceDelay, "5s")
	d.entries(n, "fence of "+name.v, func(kv *ast.MappingValueNode, key string) {
		switch {
		case key == delay.key:
			delay.take(kv)
		case !paramRE.MatchString(key):
			d.add(at(kv), "%q cannot be a parameter; write one that the agent's metadata lists, as in ip", key)
		default:
			if isSecret(key) {
				d.unshown[at(kv).line], d.unshown[at(kv.Value).line] = true, true
			}
			if v, ok := d.param(kv.Value, key); ok {
				r.params = append(r.params, rawParam{value[string]{v: key, at: at(kv), set: true}, v})
			}
		}
	})
	return r
}

// param takes any scalar as it is written: agents know texts alone.
func (d decoder) param(n ast.Node, key string) (v value[string], ok bool) {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		v.put(n.GetToken().Value, at(n))
		return v, true
	}
	s, ok := d.scalar(n, key, "VALUE")
	v.put(s, at(n))
	return v, ok
}

// fence checks what the agent would be given.
func (c *checker) fence() *Fence {
	r := &c.raw.arbiter.fence
	if !r.set {
		return nil
	}
	f := &Fence{Agent: r.agent.v, Timeout: or(r.timeout, defaultFenceTimeout), Retries: or(r.retries, defaultFenceRetries)}
	switch a := r.agent; {
	case !a.set:
		c.add(r.at, "fence has no agent; write agent: fence_ipmilan, or another one of the package fence-agents, or the path of your own")
	case strings.Contains(a.v, "/") && !filepath.IsAbs(a.v):
		c.add(a.at, "agent %q is neither a name nor an absolute path; write it as in fence_ipmilan or /usr/local/sbin/fence_rack", a.v)
	case strings.ContainsFunc(a.v, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		c.add(a.at, "agent %q cannot be a program; write its name alone, parameters go below the nodes", a.v)
	}
	names := c.nodeNames()
	if len(names) != 2 {
		return nil // it is for two, and that is told
	}
	var seen [2]bool
	for i := range r.nodes {
		n := &r.nodes[i]
		at := slices.Index(names, n.name.v)
		if at < 0 {
			c.add(n.name.at, "%q is neither a node nor a key of fence; %s", n.name.v, instead(n.name.v, append([]string{"agent", "timeout", "retries"}, names...)))
			continue
		}
		seen[at] = true
		f.Nodes[at] = c.fenceNode(n, at)
	}
	for i, name := range names {
		if !seen[i] {
			c.add(r.at, "fence does not say how %s is switched off; write %s: {ip: …, username: …, password_file: …}", name, name)
		}
	}
	if seen[0] && seen[1] && slices.Equal(f.Nodes[0].Params, f.Nodes[1].Params) {
		c.add(r.nodes[1].name.at, "%s and %s are switched off by the same parameters, so a node may switch itself off; write each node's own ip, plug or port", names[0], names[1])
	}
	return f
}

func (c *checker) fenceNode(r *rawFenceNode, node int) FenceNode {
	n := FenceNode{Delay: or(r.delay, 0)}
	for _, p := range r.params {
		name, secret, v := p.name.v, isSecret(p.name.v), p.value
		inFile := strings.TrimSuffix(name, "_file")
		switch {
		case name == "action" || name == "option" || name == "nodename":
			c.add(p.name.at, "%s is given to the agent by xdpha; remove it", name)
		case secret:
			c.add(p.name.at, "%s must not stand in this file; write %s_file: /etc/xdpha/fence-%s, and the secret into that file, mode 0600", name, name, r.name.v)
		case strings.ContainsFunc(v.v, unicode.IsControl):
			c.add(v.at, "the value of %s has more than one line, or control characters, which agents cannot be given; write it in one line", name)
		case inFile == name || !isSecret(inFile):
			n.Params = append(n.Params, FenceParam{Name: name, Value: v.v})
		case !filepath.IsAbs(v.v):
			c.add(v.at, "%s %q is not an absolute path; write it as in /etc/xdpha/fence-%s", name, v.v, r.name.v)
		default:
			c.fenceSecret(v, node)
			n.Params = append(n.Params, FenceParam{Name: inFile, Value: v.v, InFile: true})
		}
	}
	slices.SortFunc(n.Params, func(a, b FenceParam) int { return cmp.Compare(a.Name, b.Name) })
	return n
}

// fenceSecret looks at the file that this node will need: the one of the other node.
func (c *checker) fenceSecret(v value[string], node int) {
	if c.o.ReadFile != nil || node == c.cfg.Self {
		return
	}
	src, err := ReadSecret(v.v)
	clear(src)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		c.add(v.at, "cannot read the secret: %v; write it into that file: (umask 077; cat > %s)", err, v.v)
	default:
		c.add(v.at, "cannot read the secret: %v; %s", err, secretRemedy(err, v.v))
	}
}

// isSecret tells the parameters that open a power switch. Agents call them so; what their
// scripts print, and paths, are none.
func isSecret(param string) bool {
	switch param {
	case "secret_key", "apikey", "token":
		return true
	}
	return strings.Contains(param, "passw") && !strings.HasSuffix(param, "_script") && !strings.HasSuffix(param, "_file")
}
