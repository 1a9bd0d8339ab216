// SPDX-License-Identifier: Apache-2.0

package arbiter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

const secretMost = 4096

// input is what the agent reads: key=value lines. The secrets come back beside it, to be kept out
// of whatever is told of the run.
func (a *Agent) input(action string) (in []byte, secrets []string, err error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "action=%s\nnodename=%s\n", action, a.node)
	for _, p := range a.params {
		value := p.Value
		if p.InFile {
			if value, err = readSecret(p.Value); err != nil {
				return nil, nil, fmt.Errorf("read %s for %s: %w", p.Name, a.node, err)
			}
			secrets = append(secrets, value)
		}
		fmt.Fprintf(&b, "%s=%s\n", p.Name, value)
	}
	return b.Bytes(), secrets, nil
}

// readSecret reads a file's one line, if nobody else can.
func readSecret(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait for its writer
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	switch perm := info.Mode().Perm(); {
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	case perm&0o077 != 0:
		return "", fmt.Errorf("%s has mode %04o, others can use it: run: chmod 0600 %s", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, secretMost))
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || len(b) == secretMost || strings.ContainsFunc(s, unicode.IsControl) {
		return "", errors.New(path + " does not hold one line with a secret")
	}
	return s, nil
}

// redact keeps secrets out of what an agent said.
func redact(said string, secrets []string) string {
	for _, s := range secrets {
		for _, form := range []string{s, strings.Join(strings.Fields(s), " ")} {
			if form != "" {
				said = strings.ReplaceAll(said, form, "(secret)")
			}
		}
	}
	return said
}
