// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Etcd is the cluster in which the identities' keys are won.
type Etcd struct {
	Endpoints []string      // client URLs of the members, all of one scheme
	TTL       time.Duration // of the lease, in whole seconds
	// CA, Cert and Key are files; empty: the system's authorities, no certificate of this node's own.
	CA, Cert, Key string
}

// Bounds and defaults. etcd counts leases in seconds, and grants none shorter than one and a half
// of its election timeouts, which is 1 s as delivered.
const (
	minEtcdTTL     = 2 * time.Second
	maxEtcdTTL     = time.Minute
	defaultEtcdTTL = 3 * time.Second
	maxEndpoints   = 9 // more members than that nobody runs
)

type rawEtcd struct {
	at            pos
	set           bool
	endpoints     list
	ttl           value[time.Duration]
	ca, cert, key value[string]
}

func (d decoder) etcd(e *rawEtcd) field {
	return field{"etcd", func(kv *ast.MappingValueNode) {
		e.at, e.set = at(kv), true
		d.object(kv.Value, "etcd",
			d.texts("endpoints", &e.endpoints, "https://192.0.2.9:2379"),
			d.duration("ttl", &e.ttl, minEtcdTTL, maxEtcdTTL, "3s"),
			d.inside("tls",
				d.text("ca", &e.ca, "/etc/xdpha/etcd-ca.pem"),
				d.text("cert", &e.cert, "/etc/xdpha/etcd.pem"),
				d.text("key", &e.key, "/etc/xdpha/etcd.key"),
			),
		)
	}}
}

// etcd checks how the cluster is reached.
func (c *checker) etcd() *Etcd {
	r := &c.raw.arbiter.etcd
	if !r.set {
		return nil
	}
	e := &Etcd{TTL: or(r.ttl, defaultEtcdTTL)}
	if e.TTL%time.Second != 0 {
		c.add(r.ttl.at, "ttl %s is no whole number of seconds, in which etcd counts; write it as in 3s", short(e.TTL))
	}
	switch n := len(r.endpoints.items); {
	case n == 0:
		c.add(place(value[string]{set: r.endpoints.set, at: r.endpoints.at}, r.at), "etcd has no endpoints; write endpoints: [\"https://192.0.2.9:2379\", …], one for each member")
	case n > maxEndpoints:
		c.add(r.endpoints.items[maxEndpoints].at, "more than %d endpoints; write one for each member", maxEndpoints)
	}
	e.Endpoints = c.endpoints(r.endpoints.items)
	c.etcdFiles(r, e)
	return e
}

func (c *checker) endpoints(items []value[string]) (list []string) {
	scheme, seen := "", map[string]bool{}
	for _, v := range items {
		u, err := url.Parse(v.v)
		switch {
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Port() == "":
			c.add(v.at, "%q is no client URL of a member; write it as in https://192.0.2.9:2379", v.v)
		case u.User != nil:
			c.unshown[v.at.line] = true // it may hold a password
			c.add(v.at, "endpoint %s://%s has a user; write it without, and a certificate under tls", u.Scheme, u.Host)
		case u.Path != "" || u.RawQuery != "" || u.Fragment != "":
			c.add(v.at, "endpoint %q has more than scheme, host and port; write %s://%s", v.v, u.Scheme, u.Host)
		case scheme != "" && u.Scheme != scheme:
			c.add(v.at, "endpoint %s is %s, and one before it is %s; write all in the same way", v.v, u.Scheme, scheme)
		case seen[u.Host]:
			c.add(v.at, "endpoint %s is there twice; write each member once", v.v)
		default:
			scheme, seen[u.Host] = u.Scheme, true
			list = append(list, v.v)
		}
	}
	return list
}

// etcdFiles checks the files of tls. The key opens what decides who serves.
func (c *checker) etcdFiles(r *rawEtcd, e *Etcd) {
	for _, f := range []struct {
		name string
		v    value[string]
		out  *string
	}{{"ca", r.ca, &e.CA}, {"cert", r.cert, &e.Cert}, {"key", r.key, &e.Key}} {
		switch {
		case !f.v.set:
		case !filepath.IsAbs(f.v.v):
			c.add(f.v.at, "%s %q is not an absolute path; write it as in /etc/xdpha/etcd.pem", f.name, f.v.v)
		case len(e.Endpoints) > 0 && e.Endpoints[0][:5] != "https":
			c.add(f.v.at, "%s is not used with http; write https endpoints, or remove tls", f.name)
		default:
			*f.out = f.v.v
			c.etcdFile(f.name, f.v)
		}
	}
	switch {
	case r.cert.set && !r.key.set:
		c.add(r.cert.at, "cert without key; write key: FILE beside it")
	case r.key.set && !r.cert.set:
		c.add(r.key.at, "key without cert; write cert: FILE beside it")
	}
}

// etcdFile looks whether the daemon will be able to read a file.
func (c *checker) etcdFile(name string, v value[string]) {
	if c.o.ReadFile != nil {
		return
	}
	read := os.ReadFile
	if name == "key" {
		read = ReadSecret
	}
	src, err := read(v.v)
	clear(src)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		c.add(v.at, "cannot read %s: %v; put the file there, in PEM form", name, err)
	default:
		c.add(v.at, "cannot read %s: %v; %s", name, err, secretRemedy(err, v.v))
	}
}
