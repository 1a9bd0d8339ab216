// SPDX-License-Identifier: Apache-2.0

// Command fuzz sends frames to the loaded kernel programs, and then runs every fuzz target of the
// repository for some time: `make fuzz`. Root. Exit status 1: something broke a rule; what did it
// is printed, and kept below testdata/fuzz of its package if it was a target of Go's.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run() error {
	forTime := flag.Duration("for", time.Minute, "how `long` each target of Go's is run")
	frames := flag.Int("frames", 10_000_000, "how `many` frames meet the kernel programs")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "the `seed` of the frames")
	flag.Parse()
	broken := test("./bpf", "-run", "^TestNoFrameFromOutsideBreaksTheRules$", "-v", "-timeout", "0",
		"-frames", fmt.Sprint(*frames), "-seed", fmt.Sprint(*seed))
	list, err := targets()
	if err != nil {
		return err
	}
	total := 0
	for _, t := range list {
		n, err := t.run(*forTime)
		broken = errors.Join(broken, err)
		total += n
		fmt.Printf("%-14s %-16s %12d executions\n", t.dir, t.name, n)
	}
	fmt.Printf("%d targets of Go's, %d executions\n", len(list), total)
	return broken
}

// target is one of Go's fuzz targets.
type target struct{ dir, name string }

var declared = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// targets finds them in the tests.
func targets() (list []target, err error) {
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(b, -1) {
			list = append(list, target{filepath.Dir(path), string(m[1])})
		}
		return err
	})
	if err == nil && len(list) == 0 {
		err = errors.New("no target found: run it at the top of the repository")
	}
	slices.SortFunc(list, func(a, b target) int { return strings.Compare(a.dir+a.name, b.dir+b.name) })
	return list, err
}

var (
	executed = regexp.MustCompile(`execs: (\d+)`)
	// Before Go 1.27 the end of -fuzztime is now and then told as a failure (go.dev/issue/75804). What a target says stands
	// behind its file and line, or in a test below.
	timeIsUp = regexp.MustCompile(`(?m)^--- FAIL: Fuzz\w+ \(\d+\.\d+s\)\n    context deadline exceeded$`)
)

func (t target) run(long time.Duration) (executions int, err error) {
	var out bytes.Buffer
	defer func() {
		if err != nil {
			os.Stdout.Write(out.Bytes())
		}
	}()
	err = testTo(&out, "./"+t.dir, "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", long.String(),
		"-fuzzminimizetime", "100x") // as a rule it makes an input smaller for a minute: of some that is all that would be done
	if all := executed.FindAllSubmatch(out.Bytes(), -1); len(all) > 0 {
		executions, _ = strconv.Atoi(string(all[len(all)-1][1])) // digits
	}
	if timeIsUp.Match(out.Bytes()) {
		return executions, nil
	}
	return executions, err
}

func test(dir string, args ...string) error { return testTo(os.Stdout, dir, args...) }

func testTo(out io.Writer, dir string, args ...string) error {
	cmd := exec.Command("go", append([]string{"test", dir}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
