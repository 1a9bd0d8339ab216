// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Incidents that two daemons went through: what each journal says is decided again, and is printed
// as it was. XDPHA_UPDATE=1 writes the transcripts anew.
func TestIncidentsAreReplayed(t *testing.T) {
	dirs, err := filepath.Glob("../testdata/journals/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("find journals: %v, %d found", err, len(dirs))
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var out bytes.Buffer
			if err := replay(Env{Stdout: &out}, dir, printPlayed); err != nil {
				t.Error(err)
			}
			golden := filepath.Join(dir, "transcript.txt")
			if os.Getenv("XDPHA_UPDATE") == "1" {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("%s differs; got:\n%s", golden, out.Bytes())
			}
		})
	}
}
