// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/goccy/go-yaml/ast"
)

type rawService struct {
	name                                  value[string]
	exec                                  rawExec
	systemd                               value[string]
	ocf                                   rawOCF
	check                                 rawCheck
	run, onUnhealthy                      value[string]
	startTimeout, stopTimeout, checkLimit value[time.Duration]
	times                                 value[int]
	within                                value[time.Duration]
	after                                 list
	warm                                  value[bool]
	ports                                 []value[int]
	afterSilence                          value[time.Duration]
}

type rawExec struct {
	at                                  pos
	set                                 bool
	start, stop, check, promote, demote value[string]
}

type rawOCF struct {
	at     pos
	set    bool
	agent  value[string]
	params []rawParam
	depth  value[int]
}

type rawCheck struct {
	at                                    pos
	command, tcp, http, contains, process value[string]
	status                                value[[2]int]
	every                                 value[time.Duration]
	rise, fall                            value[int]
}

func (d decoder) service(name value[string], n ast.Node) rawService {
	r := rawService{name: name}
	d.object(n, "a service",
		d.exec(&r.exec),
		d.text("systemd", &r.systemd, "smbd.service"),
		d.ocf(&r.ocf),
		d.choice("run", &r.run, "exclusive", "concurrent"),
		d.check(&r.check),
		d.inside("timeout",
			d.duration("start", &r.startTimeout, minTimeout, maxTimeout, "20s"),
			d.duration("stop", &r.stopTimeout, minTimeout, maxTimeout, "20s"),
			d.duration("check", &r.checkLimit, minTimeout, maxTimeout, "5s"),
		),
		d.inside("restart",
			d.integer("times", &r.times, 0, 100),
			d.duration("within", &r.within, time.Second, 24*time.Hour, "1m"),
		),
		d.texts("after", &r.after, "database"),
		d.boolean("warm", &r.warm),
		d.choice("on_unhealthy", &r.onUnhealthy, "report", "move"),
		d.ports(&r.ports),
		d.duration("start_after_silence", &r.afterSilence, 0, time.Hour, "2s"),
	)
	return r
}

func (d decoder) exec(r *rawExec) field {
	return field{"exec", func(kv *ast.MappingValueNode) {
		r.at, r.set = at(kv), true
		d.object(kv.Value, "exec",
			d.text("start", &r.start, "systemctl start smbd"),
			d.text("stop", &r.stop, "systemctl stop smbd"),
			d.text("check", &r.check, "systemctl is-active smbd"),
			d.text("promote", &r.promote, "pg_ctl promote"),
			d.text("demote", &r.demote, "/usr/local/sbin/demote-database"),
		)
	}}
}

var ocfParamRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

func (d decoder) ocf(r *rawOCF) field {
	return field{"ocf", func(kv *ast.MappingValueNode) {
		r.at, r.set = at(kv), true
		d.object(kv.Value, "ocf",
			d.text("agent", &r.agent, "ocf:heartbeat:Filesystem"),
			d.integer("depth", &r.depth, 0, 1000),
			field{"params", func(kv *ast.MappingValueNode) {
				d.entries(kv.Value, "params", func(kv *ast.MappingValueNode, key string) {
					if !ocfParamRE.MatchString(key) {
						d.add(at(kv), "%q cannot be a parameter; write one that the agent's meta-data lists, as in device", key)
						return
					}
					if isSecret(key) {
						d.unshown[at(kv).line], d.unshown[at(kv.Value).line] = true, true
					}
					if v, ok := d.param(kv.Value, key); ok {
						r.params = append(r.params, rawParam{value[string]{v: key, at: at(kv), set: true}, v})
					}
				})
			}},
		)
	}}
}

func (d decoder) check(r *rawCheck) field {
	return field{"check", func(kv *ast.MappingValueNode) {
		r.at = at(kv)
		d.object(kv.Value, "check",
			d.text("command", &r.command, "smbclient -N -L 127.0.0.1"),
			d.text("tcp", &r.tcp, `"192.0.2.21:445"`),
			d.text("http", &r.http, `"http://192.0.2.21/"`),
			d.status(&r.status),
			d.text("contains", &r.contains, "welcome"),
			d.text("process", &r.process, "smbd"),
			d.duration("every", &r.every, 100*time.Millisecond, time.Hour, "2s"),
			d.integer("rise", &r.rise, 1, 100),
			d.integer("fall", &r.fall, 1, 100),
		)
	}}
}

var statusRE = regexp.MustCompile(`^([1-5][0-9][0-9])(?:\.\.([1-5][0-9][0-9]))?$`)

// status reads one status code of HTTP, or a range of them.
func (d decoder) status(out *value[[2]int]) field {
	return field{"status", func(kv *ast.MappingValueNode) {
		v, ok := d.param(kv.Value, "status")
		if !ok {
			return
		}
		m := statusRE.FindStringSubmatch(v.v)
		if m == nil {
			d.add(v.at, "status %q is not a status of HTTP; write one, or the first and the last, as in 200..399", v.v)
			return
		}
		first, _ := strconv.Atoi(m[1])
		last := first
		if m[2] != "" {
			last, _ = strconv.Atoi(m[2])
		}
		if last < first {
			d.add(v.at, "status %s goes backwards; write %d..%d", v.v, last, first)
			return
		}
		out.put([2]int{first, last}, v.at)
	}}
}

func (d decoder) ports(out *[]value[int]) field {
	return field{"ports", func(kv *ast.MappingValueNode) {
		seq, ok := kv.Value.(*ast.SequenceNode)
		if !ok {
			d.wrongType(kv.Value, "ports", "a list, as in [445, 139]")
			return
		}
		for _, n := range seq.Values {
			v, ok := d.param(n, "an entry of ports")
			if !ok {
				continue
			}
			p, err := strconv.ParseUint(v.v, 10, 16)
			if err != nil || p == 0 {
				d.add(v.at, "port %s is out of range; write a whole number from 1 to %d", fmt.Sprintf("%q", v.v), math.MaxUint16)
				continue
			}
			*out = append(*out, value[int]{v: int(p), at: v.at, set: true})
		}
	}}
}
