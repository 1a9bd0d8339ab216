// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/xdpha/xdpha/"

// layers is the only direction of imports: a package may import what stands in
// an earlier layer, never its own or a later one.
var layers = [][]string{
	{"bpf", "pkg/core", "pkg/wire", "pkg/config", "pkg/privilege", "pkg/plan", "pkg/bench/stats", "pkg/bench/command"},
	{"pkg/line"},
	{"loader", "pkg/host", "pkg/announce", "pkg/arbiter", "pkg/arbiter/etcd", "pkg/arbiter/etcdtest", "pkg/service", "pkg/mirror", "pkg/tickle", "pkg/control", "pkg/journal"},
	{"pkg/metrics", "pkg/lab", "pkg/sim", "pkg/bench"},
	{"pkg/node", "pkg/bench/pair", "pkg/bench/cost", "pkg/bench/example"},
	{"ctl", "pkg/bench/peers", "pkg/bench/outage", "pkg/bench/article", "pkg/bench/returns"},
	{"ctl/xdpha", "scripts/bench", "scripts/bench-peers", "scripts/bench-outage", "scripts/sim", "scripts/fuzz", "scripts/article", "scripts/returns"},
}

// only lists libraries that one package owns.
var only = map[string][]string{
	"github.com/urfave/cli/v2":            {"ctl"},
	"charm.land/bubbletea/v2":             {"ctl"},
	"github.com/goccy/go-yaml":            {"pkg/config"},
	"github.com/mdlayher/arp":             {"pkg/announce"},
	"github.com/prometheus/client_golang": {"pkg/metrics"},
	"github.com/xdpha/xdpha/bpf":          {"loader"},
	"go.etcd.io/etcd/client/v3":           {"pkg/arbiter/etcd"},
	"github.com/fsnotify/fsnotify":        {"pkg/mirror"},
	"go.etcd.io/etcd/server/v3":           {"pkg/arbiter/etcdtest"},
	"github.com/coreos/go-systemd/v22":    {"pkg/node", "pkg/service"},
}

// pure packages import nothing that could touch the world.
var pure = map[string][]string{
	"pkg/core": {"os", "net", "time", "log", "log/slog", "io", "sync", "context", "math/rand", "math/rand/v2", "syscall"},
	"pkg/wire": {"os", "net", "time", "log", "log/slog", "sync", "context", "math/rand", "math/rand/v2", "syscall"},
}

// source is one parsed Go file.
type source struct {
	path, dir string
	file      *ast.File
	first     string
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, b, parser.ParseComments)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(b), "\n")
		all = append(all, source{path, filepath.Dir(path), f, first})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func layerOf(dir string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, dir) })
}

func TestImportsPointOneWay(t *testing.T) {
	for _, s := range sources(t) {
		mine := layerOf(s.dir)
		if mine < 0 {
			t.Errorf("%s: package %s has no place among the layers of this test", s.path, s.dir)
			continue
		}
		if s.test() {
			continue // a test may look at what stands beside
		}
		for _, i := range s.imports() {
			dir, ours := strings.CutPrefix(i, module)
			if ours && layerOf(dir) >= mine {
				t.Errorf("%s imports %s, which does not stand below it", s.path, dir)
			}
		}
	}
}

func TestLibrariesHaveOneOwner(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.imports() {
			for lib, owners := range only {
				if !s.test() && (i == lib || strings.HasPrefix(i, lib+"/")) && !slices.Contains(owners, s.dir) {
					t.Errorf("%s imports %s, which belongs to %v", s.path, i, owners)
				}
			}
		}
	}
}

func TestPurePackagesTouchNothing(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.imports() {
			if !s.test() && slices.Contains(pure[s.dir], i) {
				t.Errorf("%s imports %s, but %s is pure", s.path, i, s.dir)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented, dirs := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		if !s.test() {
			dirs[s.dir] = true
			documented[s.dir] = documented[s.dir] || s.file.Doc != nil && len(s.file.Doc.Text()) > 20
		}
	}
	for dir := range dirs {
		if !documented[dir] {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

func TestEveryFileBearsItsLicence(t *testing.T) {
	for _, s := range sources(t) {
		if !ast.IsGenerated(s.file) && s.first != "// SPDX-License-Identifier: Apache-2.0" {
			t.Errorf("%s: the first line is not the licence", s.path)
		}
	}
	kernel, err := filepath.Glob("../bpf/*.[ch]")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range kernel {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), "// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)\n") {
			t.Errorf("%s: the first line is not the licence", path)
		}
	}
}

// ofTheWallClock are names of what reads the wall clock, or makes of a time what has no monotonic reading
// any more (package time, "Monotonic Clocks"): a clock that is stepped by a day must change nothing.
var ofTheWallClock = []string{
	"Unix", "UnixMilli", "UnixMicro", "UnixNano", "ModTime", "Date", "Parse", "ParseInLocation",
	"CLOCK_REALTIME", "CLOCK_REALTIME_COARSE", "CLOCK_TAI", "Gettimeofday", "Settimeofday",
}

func TestNothingIsDecidedByTheWallClock(t *testing.T) {
	for _, s := range sources(t) {
		daemons := s.dir == "loader" || strings.HasPrefix(s.dir, "pkg/")
		if s.test() || !daemons || strings.HasPrefix(s.dir, "pkg/lab") || strings.HasPrefix(s.dir, "pkg/bench") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			of, _ := sel.X.(*ast.Ident)
			other := (sel.Sel.Name == "Parse" || sel.Sel.Name == "Date") && (of == nil || of.Name != "time") // as of a template
			if slices.Contains(ofTheWallClock, sel.Sel.Name) && !other {
				t.Errorf("%s uses %s, which is of the wall clock", s.path, sel.Sel.Name)
			}
			return true
		})
	}
	kernel, err := filepath.Glob("../bpf/*.[ch]")
	if err != nil || len(kernel) == 0 {
		t.Fatalf("no kernel sources: %v", err)
	}
	for _, path := range kernel {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"CLOCK_REALTIME", "CLOCK_TAI", "ktime_get_tai", "ktime_get_real", "ktime_get_coarse", "jiffies64"} {
			if strings.Contains(string(b), name) {
				t.Errorf("%s uses %s", path, name)
			}
		}
	}
}
