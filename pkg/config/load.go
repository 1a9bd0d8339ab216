// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// Options is what a configuration depends on beside its text.
type Options struct {
	Node     string                       // overrides node: when not empty
	Hostname string                       // what node: auto is resolved by; Load asks the system when empty
	ReadFile func(string) ([]byte, error) // reads the secret; when nil: a file that nobody else can use
}

// Load reads and checks the file at path.
func Load(path string, o Options) (*Config, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w; write one there or name another with --config", err)
	}
	if o.Hostname == "" {
		if o.Hostname, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("read hostname: %w; name the node with --node", err)
		}
	}
	return Parse(path, src, o)
}

// Parse checks src as the configuration at path. A mistake comes back as
// *Error, several as Errors.
func Parse(path string, src []byte, o Options) (*Config, error) {
	r := newReport(path, src)
	d := decoder{r}
	doc := d.document(src)
	if doc == nil {
		return nil, r.err()
	}
	raw := d.file(doc)
	if err := r.err(); err != nil {
		return nil, err // relations between broken values would only mislead
	}
	c := checker{report: r, raw: raw, o: o, cfg: &Config{Path: path}}
	c.all()
	if err := r.err(); err != nil {
		return nil, err
	}
	keys, err := loadKeys(r, raw.secretFile, c.cfg.Cluster, o)
	if err != nil {
		return nil, err
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	c.cfg.Keys = keys
	c.cfg.Digest, err = digest(*c.cfg)
	return c.cfg, err
}

// digest covers what all nodes must agree on.
func digest(c Config) (uint32, error) {
	if !c.Many() { // nothing to agree on: it is the other node, in whatever version
		c.Identities = slices.Clone(c.Identities)
		for i := range c.Identities {
			c.Identities[i].Prefer = nil
		}
	}
	c.Timing = c.Timing.agreed()
	c.Path, c.Self, c.Hooks, c.Metrics, c.Keys, c.Digest = "", 0, Hooks{}, Metrics{}, nil, 0
	b, err := json.Marshal(c)
	if err != nil {
		return 0, fmt.Errorf("digest configuration: %w", err)
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint32(sum[:]), nil
}

// or gives the value as written, or the default where nothing was.
func or[T any](v value[T], def T) T {
	if v.set {
		return v.v
	}
	return def
}

// place gives the value's place, or a fallback where nothing was written.
func place[T any](v value[T], fallback pos) pos {
	if v.set {
		return v.at
	}
	return fallback
}

func byName[T any](name func(*T) string) func(a, b T) int {
	return func(a, b T) int { return cmp.Compare(name(&a), name(&b)) }
}
