// SPDX-License-Identifier: Apache-2.0

package core

import (
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// What would let time, chance or the outside world in is not imported.
func TestImportsOnlyWhatIsPure(t *testing.T) {
	pure := []string{`"fmt"`, `"maps"`, `"slices"`, `"strconv"`, `"strings"`}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.ImportsOnly|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if !slices.Contains(pure, i.Path.Value) {
				t.Errorf("%s imports %s", e.Name(), i.Path.Value)
			}
		}
	}
}
