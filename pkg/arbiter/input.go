// SPDX-License-Identifier: Apache-2.0

package arbiter

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/xdpha/xdpha/pkg/config"
)

// input is what the agent reads: key=value lines. The secrets come back beside it, to be kept out
// of whatever is told of the run.
func (a *Agent) input(action string) (in []byte, secrets []string, err error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "action=%s\nnodename=%s\n", action, a.node)
	for _, p := range a.params {
		value := p.Value
		if p.InFile {
			if value, err = secretLine(p.Value); err != nil {
				return nil, nil, fmt.Errorf("read %s for %s: %w", p.Name, a.node, err)
			}
			secrets = append(secrets, value)
		}
		fmt.Fprintf(&b, "%s=%s\n", p.Name, value)
	}
	return b.Bytes(), secrets, nil
}

// secretLine reads a file's one line.
func secretLine(path string) (string, error) {
	b, err := config.ReadSecret(path)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || strings.ContainsFunc(s, unicode.IsControl) {
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
