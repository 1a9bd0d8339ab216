// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// Mirror is a set of directories that is kept on both nodes, from the owner of the identity that
// lists it to the other one.
type Mirror struct {
	Name           string
	Paths          []string // absolute and clean, in the order of the file
	Every          time.Duration
	OnChange       bool
	Exclude        []string // patterns as rsync reads them, "/" at the beginning is the path itself
	BytesPerSecond int64    // 0: as fast as it goes
}

// Bounds and defaults.
const (
	maxMirrors         = 64
	maxMirrorPaths     = 16 // each is compared by a run of its own
	maxExcludes        = 64
	minMirrorEvery     = time.Second
	maxMirrorEvery     = 24 * time.Hour
	defaultMirrorEvery = 5 * time.Minute
	minBandwidth       = 64_000 // per second: less than that copies nothing in any useful time
)

type rawMirror struct {
	name           value[string]
	paths, exclude list
	every          value[time.Duration]
	onChange       value[bool]
	bandwidth      value[string]
}

func (d decoder) mirrors(out *[]rawMirror) field {
	return field{"mirrors", func(kv *ast.MappingValueNode) {
		d.named(kv.Value, "mirrors", func(name value[string], kv *ast.MappingValueNode) {
			r := rawMirror{name: name}
			d.object(kv.Value, "a mirror set",
				d.texts("paths", &r.paths, "/srv/samba/"),
				d.duration("every", &r.every, minMirrorEvery, maxMirrorEvery, "5m"),
				d.boolean("on_change", &r.onChange),
				d.texts("exclude", &r.exclude, "*.tmp"),
				d.text("bandwidth", &r.bandwidth, "50MB"),
			)
			*out = append(*out, r)
		})
	}}
}

// mirrors checks each set, that their paths do not meet, and whose they are.
func (c *checker) mirrors() {
	raw := c.raw.mirrors
	if len(raw) > maxMirrors {
		c.add(raw[maxMirrors].name.at, "%d mirror sets, the limit is %d; join some, a set can have many paths", len(raw), maxMirrors)
		return
	}
	if len(raw) > 0 && len(c.raw.nodes) > 2 {
		c.add(raw[0].name.at, "mirrors keep two nodes alike, this cluster has %d; remove mirrors, and share the data by other means", len(c.raw.nodes))
		return
	}
	slices.SortFunc(raw, byName(func(r *rawMirror) string { return r.name.v }))
	var used []usedPath
	for i := range raw {
		m := Mirror{Name: raw[i].name.v, Every: or(raw[i].every, defaultMirrorEvery), OnChange: or(raw[i].onChange, true)}
		c.mirrorPaths(&raw[i], &m, &used)
		c.excludes(&raw[i], &m)
		m.BytesPerSecond = c.bandwidth(raw[i].bandwidth)
		c.cfg.Mirrors = append(c.cfg.Mirrors, m)
	}
	c.mirrorOwners()
}

// usedPath is one that a set has.
type usedPath struct {
	path, set string
	at        pos
}

func (c *checker) mirrorPaths(r *rawMirror, m *Mirror, used *[]usedPath) {
	switch n := len(r.paths.items); {
	case n == 0:
		c.add(place(value[string]{set: r.paths.set, at: r.paths.at}, r.name.at), "mirror set %s has no paths; write paths: [/srv/samba/]", m.Name)
	case n > maxMirrorPaths:
		c.add(r.paths.items[maxMirrorPaths].at, "more than %d paths in mirror set %s; write the directory above them, or a second set", maxMirrorPaths, m.Name)
		return
	}
	for _, v := range r.paths.items {
		p := path.Clean(v.v)
		switch {
		case !path.IsAbs(v.v):
			c.add(v.at, "path %q is not absolute; write it as in /srv/samba/", v.v)
			continue
		case p != v.v && p+"/" != v.v:
			c.add(v.at, "path %q is written in a roundabout way; write %s/", v.v, strings.TrimSuffix(p, "/"))
			continue
		case strings.ContainsFunc(v.v, unicode.IsControl):
			c.add(v.at, "path %q has a control character; rename the directory", v.v)
			continue
		}
		if dir, system := ofTheSystem(p); system {
			c.add(v.at, "path %s is, holds or lies in %s, which is each node's own; write a directory with data that clients share, as in /srv/samba/", v.v, dir)
			continue
		}
		if i := slices.IndexFunc(*used, func(u usedPath) bool { return within(p, u.path) || within(u.path, p) }); i >= 0 {
			c.add(v.at, "path %s meets %s of mirror set %s (line %d); each file belongs to one path only: remove one of them", v.v, (*used)[i].path, (*used)[i].set, (*used)[i].at.line)
			continue
		}
		*used = append(*used, usedPath{p, m.Name, v.at})
		m.Paths = append(m.Paths, p)
	}
}

// within reports whether a path is dir or lies in it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// Directories that make a node what it is. What lies in those of systemTrees is refused too, but for
// what is in notSystem.
var (
	systemTrees = []string{"/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var/lock", "/var/run", "/var/tmp",
		"/etc/xdpha", "/var/lib/xdpha"}
	systemTops = []string{"/", "/etc", "/root", "/usr/local", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool"}
	notSystem  = []string{"/usr/local"}
)

func ofTheSystem(p string) (dir string, yes bool) {
	for _, dir := range systemTops {
		if p == dir {
			return dir, true
		}
	}
	for _, dir := range systemTrees {
		if within(dir, p) || within(p, dir) && !slices.ContainsFunc(notSystem, func(ok string) bool { return within(p, ok) }) {
			return dir, true
		}
	}
	return "", false
}

func (c *checker) excludes(r *rawMirror, m *Mirror) {
	if len(r.exclude.items) > maxExcludes {
		c.add(r.exclude.items[maxExcludes].at, "more than %d patterns in exclude of mirror set %s; write wider ones, as in *.tmp", maxExcludes, m.Name)
		return
	}
	for _, v := range r.exclude.items {
		if strings.ContainsFunc(v.v, unicode.IsControl) {
			c.add(v.at, "pattern %q has a control character; write ? in its place", v.v)
			continue
		}
		m.Exclude = append(m.Exclude, v.v)
	}
}

var bandwidthUnits = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}}

func (c *checker) bandwidth(v value[string]) int64 {
	if !v.set {
		return 0
	}
	for _, u := range bandwidthUnits {
		digits, ok := strings.CutSuffix(v.v, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			break
		}
		if n > uint64(math.MaxInt64/u.bytes) || int64(n)*u.bytes < minBandwidth {
			c.add(v.at, "bandwidth %s is out of range; write at least 64kB (per second), or leave it out", v.v)
			return 0
		}
		return int64(n) * u.bytes
	}
	c.add(v.at, "bandwidth %q is not a number of bytes (per second); write a whole number with kB, MB, GB, KiB, MiB or GiB, as in 50MB", v.v)
	return 0
}

// mirrorOwners: each set goes with one identity, whose owner it is copied from.
func (c *checker) mirrorOwners() {
	owner, allKnown := map[string]string{}, true
	known := make([]string, len(c.raw.mirrors))
	for i, r := range c.raw.mirrors {
		known[i] = r.name.v
	}
	for _, id := range c.raw.identities {
		for _, v := range id.mirror.items {
			switch other := owner[v.v]; {
			case !slices.Contains(known, v.v) && len(known) == 0:
				allKnown = false
				c.add(v.at, "mirror set %s is not in mirrors; define it below mirrors", v.v)
			case !slices.Contains(known, v.v):
				allKnown = false
				c.add(v.at, "mirror set %s is not in mirrors; %s, or define it below mirrors", v.v, instead(v.v, known))
			case other == id.name.v:
				c.add(v.at, "mirror set %s is listed twice; remove one of them", v.v)
			case other != "":
				c.add(v.at, "mirror set %s is in identity %s too, and would be copied in both directions at once; remove it from one, or put both into one identity", v.v, other)
			default:
				owner[v.v] = id.name.v
			}
		}
	}
	for _, r := range c.raw.mirrors {
		if allKnown && owner[r.name.v] == "" {
			c.add(r.name.at, "mirror set %s is in no identity and would never be copied; list it in an identity's mirror", r.name.v)
		}
	}
}
