// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/xdpha/xdpha/pkg/lab"
)

// awaitMirrored returns when the configuration's mirrors have brought whatever is in an identity's paths now to
// the other node's disk. It does not go by what the daemons say of it.
func (s *scene) awaitMirrored(ctx context.Context, from *lab.Node, paths []string) error {
	to := s.Peer(from.Name)
	for _, path := range paths {
		wanted, err := contents(onDisk(from, path))
		if err != nil {
			return err
		}
		err = s.await(ctx, fmt.Sprintf("mirror of %s from %s", path, from.Name), func() string {
			there, err := contents(onDisk(to, path))
			if err != nil {
				return err.Error()
			}
			for content, name := range wanted {
				if there[content] == "" {
					return name + " is not there"
				}
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// contents are the names of all files by their checksums: Dovecot renames a mail that was seen. What it keeps
// beside them changes without an end, and can be made anew.
func contents(path string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), "dovecot") {
			return ignoreMissing(err) // it was renamed since
		}
		b, err := os.ReadFile(name)
		if err == nil {
			all[sum(string(b))] = name
		}
		return ignoreMissing(err)
	})
	return all, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
