// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"path/filepath"

	"github.com/xdpha/xdpha/pkg/lab"
)

type ledger struct{}

func (s *scene) locks() string { return filepath.Join(s.Dir, "locks") }

func (s *scene) synchronise(ctx context.Context, from string) error         { return nil }
func (s *scene) synchroniseBack(ctx context.Context, id lab.Identity) error { return nil }
func (s *scene) checkData(ctx context.Context, r *Round, id lab.Identity, taken int64) error {
	return nil
}
