// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/core"
)

func pair(cluster string, self int) *config.Config {
	return &config.Config{Cluster: cluster, Self: self, Nodes: []config.Node{{Name: "serv1"}, {Name: "serv2"}}}
}

// saved is a store with something in it.
func saved(t *testing.T) (dir string, s *store) {
	t.Helper()
	dir = t.TempDir()
	s, err := openStore(dir, pair("c", 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.save(core.Saved{Generations: map[string]uint64{"files": 1<<56 - 1}, Frozen: true}); err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func TestAStateIsReadAsItWasSaved(t *testing.T) {
	dir, _ := saved(t)
	s, err := openStore(dir, pair("c", 0))
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(s.saved.Generations, map[string]uint64{"files": 1<<56 - 1}) || !s.saved.Frozen || s.saved.Standby {
		t.Errorf("read %+v", s.saved)
	}
}

func TestAStateOfAnotherClusterOrNodeIsRefused(t *testing.T) {
	dir, _ := saved(t)
	for _, cfg := range []*config.Config{pair("other", 0), pair("c", 1)} {
		if _, err := openStore(dir, cfg); err == nil || !strings.Contains(err.Error(), "--state-dir") {
			t.Errorf("as %s of %s: %v", cfg.Nodes[cfg.Self].Name, cfg.Cluster, err)
		}
	}
}

func TestEveryChangedOrMissingByteIsNoticed(t *testing.T) {
	dir, s := saved(t)
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, at int, b []byte) {
		t.Helper()
		if err := os.WriteFile(s.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := openStore(dir, pair("c", 0))
		if err == nil && (!maps.Equal(got.saved.Generations, map[string]uint64{"files": 1<<56 - 1}) || !got.saved.Frozen) {
			t.Errorf("%s at byte %d: read as %+v", what, at, got.saved)
		}
		if err != nil && !strings.Contains(err.Error(), s.path) {
			t.Errorf("%s at byte %d: the error does not name the file: %v", what, at, err)
		}
	}
	for i := range good {
		try("cut", i, good[:i])
		turned := append([]byte(nil), good...)
		turned[i] ^= 4
		try("changed", i, turned)
	}
}

func TestAnUnfinishedStateIsRemovedAndDoesNotCount(t *testing.T) {
	dir, _ := saved(t)
	left := filepath.Join(dir, "state.123.tmp")
	if err := os.WriteFile(left, []byte("half of"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(dir, pair("c", 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
}

func TestASaveThatFailsLeavesTheOldStateAndNothingElse(t *testing.T) {
	dir, s := saved(t)
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.path = filepath.Join(dir, "sub")
	if err := os.MkdirAll(filepath.Join(s.path, "x"), 0o700); err != nil { // nothing can be renamed onto it
		t.Fatal(err)
	}
	if err := s.save(core.Saved{}); err == nil || strings.Count(err.Error(), "save state") != 1 {
		t.Errorf("the error is %v", err)
	}
	if now, err := os.ReadFile(filepath.Join(dir, "state.json")); err != nil || string(now) != string(good) {
		t.Errorf("the old state is %q (%v)", now, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("%v was left", left)
	}
}
