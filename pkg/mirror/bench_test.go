// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// The article's set: 6 GB in 50,000 files, none of which has changed. They are holes, which costs the
// disk nothing and a comparison the same.
const (
	benchFiles       = 50_000
	benchBytes       = 6_000_000_000
	benchDirectories = 500
)

func benchRig(b *testing.B, onChange bool) *rig {
	r := newRig(b, config.Mirror{OnChange: onChange})
	for i := range benchFiles {
		path := filepath.Join(r.a.data, benchName(i))
		if i < benchDirectories {
			mustMkdir(b, filepath.Dir(path))
		}
		f, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Truncate(benchBytes / benchFiles); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
	if out, err := exec.Command("cp", "-a", "--sparse=always", r.a.data+"/.", r.b.data).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	r.flows(b, serv1Owns)
	if s := r.a.sync(); s.Files < benchFiles || s.Copied != 0 {
		b.Fatalf("%+v", s)
	}
	return r
}

func benchName(i int) string { return fmt.Sprintf("d%03d/file%05d", i%benchDirectories, i) }

// BenchmarkUnchanged is how long all of the set takes to compare, on demand.
func BenchmarkUnchanged(b *testing.B) {
	r := benchRig(b, false)
	for b.Loop() {
		if s := r.a.sync(); s.Copied != 0 || s.Bytes != benchBytes/benchFiles*benchFiles {
			b.Fatalf("%+v", s)
		}
	}
}

// BenchmarkOnChange is the time from a file's close to its presence on the other node, in the same set.
func BenchmarkOnChange(b *testing.B) {
	r := benchRig(b, true)
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		content := fmt.Sprint("content ", i)
		name := benchName(i * 7919 % benchFiles)
		r.a.write(name, content)
		closed := time.Now()
		eventually(b, name, func() bool { return r.b.read(name) == content })
		took = append(took, time.Since(closed))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/median")
	b.ReportMetric(float64(took[len(took)*9/10].Milliseconds()), "ms/p90")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms/max")
}
