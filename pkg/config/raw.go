// SPDX-License-Identifier: Apache-2.0

package config

import (
	"time"

	"github.com/goccy/go-yaml/ast"
)

// rawFile is the file as written, with positions and without meaning.
type rawFile struct {
	cluster, secretFile, node, hold value[string]
	timing                          rawTiming
	arbiter                         rawArbiter
	nodes                           []rawNode
	nodesAt                         pos
	identities                      []rawIdentity
	identitiesAt                    pos
	services                        []rawService
	mirrors                         []rawMirror
	hookEvents                      value[string]
	metricsListen                   value[string]
}

type rawTiming struct {
	at                                          pos
	profile, solo, pacer, supervisorLost        value[string]
	probe, deadAfter, supervisorLease, bootHold value[time.Duration]
	linger, endServices, awaitServices, upDelay value[time.Duration]
}

type rawArbiter struct {
	at    pos
	set   bool
	none  value[bool]
	reach list
	fence rawFence
	etcd  rawEtcd
}

type rawNode struct {
	name                  value[string]
	lan, crossover, spare value[string]
	lanAddr, crossAddr    value[string]
}

type rawIdentity struct {
	name                         value[string]
	home, mac, staging, failback value[string]
	failbackAfter                value[time.Duration]
	addresses, services, prefer  list
	mirror                       list
	tickle                       value[bool]
}

// file reads the whole document: the shape of the contract, key by key.
func (d decoder) file(n ast.Node) *rawFile {
	r := &rawFile{}
	d.object(n, "the configuration",
		d.name("cluster", &r.cluster, "lj64"),
		d.text("secret_file", &r.secretFile, "/etc/xdpha/secret"),
		d.choice("hold", &r.hold, "none", "manual", "until-synced"),
		d.name("node", &r.node, "auto"),
		d.timing(&r.timing),
		d.arbiter(&r.arbiter),
		field{"nodes", func(kv *ast.MappingValueNode) {
			r.nodesAt = at(kv)
			d.named(kv.Value, "nodes", func(name value[string], kv *ast.MappingValueNode) {
				r.nodes = append(r.nodes, d.node(name, kv.Value))
			})
		}},
		field{"identities", func(kv *ast.MappingValueNode) {
			r.identitiesAt = at(kv)
			d.named(kv.Value, "identities", func(name value[string], kv *ast.MappingValueNode) {
				r.identities = append(r.identities, d.identity(name, kv.Value))
			})
		}},
		field{"services", func(kv *ast.MappingValueNode) {
			d.named(kv.Value, "services", func(name value[string], kv *ast.MappingValueNode) {
				r.services = append(r.services, d.service(name, kv.Value))
			})
		}},
		d.mirrors(&r.mirrors),
		d.inside("hooks", d.text("events", &r.hookEvents, "/etc/xdpha/on-event")),
		d.inside("metrics", d.text("listen", &r.metricsListen, "127.0.0.1:9640")),
	)
	return r
}

func (d decoder) timing(t *rawTiming) field {
	return field{"timing", func(kv *ast.MappingValueNode) {
		t.at = at(kv)
		d.object(kv.Value, "timing",
			d.choice("profile", &t.profile, "balanced", "cautious", "fast", profileCustom),
			d.duration("probe", &t.probe, minProbe, maxProbe, "1ms"),
			d.duration("dead_after", &t.deadAfter, minDeadProbes*minProbe, maxDeadAfter, "5ms"),
			d.duration("supervisor_lease", &t.supervisorLease, minLease, maxLease, "1s"),
			d.duration("boot_hold", &t.bootHold, minBootHold, maxBootHold, "3s"),
			d.duration("linger", &t.linger, time.Microsecond, maxDeadAfter, "500us"),
			d.duration("end_services_after", &t.endServices, minEnd, maxEnd, "500ms"),
			d.duration("await_services", &t.awaitServices, minTimeout, 24*time.Hour, "10s"),
			d.duration("updelay", &t.upDelay, minTimeout, time.Hour, "10s"),
			d.choice("solo_without_supervisor", &t.solo, "keep", "close"),
			d.choice("peer_supervisor_lost", &t.supervisorLost, "takeover", "wait"),
			d.choice("pacer", &t.pacer, PacerAuto, PacerKernel, PacerThread),
		)
	}}
}

func (d decoder) arbiter(a *rawArbiter) field {
	return field{"arbiter", func(kv *ast.MappingValueNode) {
		a.at, a.set = at(kv), true
		d.object(kv.Value, "arbiter",
			d.texts("reach", &a.reach, "192.0.2.1, 192.0.2.53"),
			d.boolean("none", &a.none),
			d.fence(&a.fence),
			d.etcd(&a.etcd),
		)
	}}
}

func (d decoder) node(name value[string], n ast.Node) rawNode {
	r := rawNode{name: name}
	d.object(n, "a node",
		d.text("lan", &r.lan, "eth0"),
		d.text("crossover", &r.crossover, "eth1"),
		d.text("spare", &r.spare, "eth2"),
		d.inside("addresses",
			d.text("lan", &r.lanAddr, "192.0.2.11/24"),
			d.text("crossover", &r.crossAddr, "192.168.111.1/24"),
		),
	)
	return r
}

func (d decoder) identity(name value[string], n ast.Node) rawIdentity {
	r := rawIdentity{name: name}
	d.object(n, "an identity",
		d.name("home", &r.home, "serv1"),
		d.texts("prefer", &r.prefer, "serv2"),
		d.text("mac", &r.mac, "auto"),
		d.texts("addresses", &r.addresses, "192.0.2.21/24"),
		d.choice("staging", &r.staging, "on-takeover", "ahead"),
		d.texts("services", &r.services, "samba"),
		d.texts("mirror", &r.mirror, "samba-data"),
		d.boolean("tickle", &r.tickle),
		d.choice("failback", &r.failback, "manual", "never", "auto"),
		d.duration("failback_after", &r.failbackAfter, 0, 24*time.Hour, "1m"),
	)
	return r
}
