// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/service"
)

// serviceChecks looks for what the services need on this host. Nothing is started.
func serviceChecks(ctx context.Context, cfg *config.Config, stateDir string) (out []hostCheck) {
	if service.NeedCgroup(cfg.Services) {
		h := hostCheck{Name: "cgroups of services", OK: true, Detail: "each service has one: a stop leaves nothing behind, and its use is measured"}
		if err := service.CheckCgroups(stateDir); err != nil { // they run all the same
			h.Detail = "process groups have to do, which a daemon can leave, and use is not measured: " + err.Error()
		}
		out = append(out, h)
	}
	m := service.New(cfg.Services, stateDir, slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
	defer m.Close()
	missing, _ := m.Prepare(ctx).(interface{ Unwrap() []error }) // of a service each
	if missing == nil {
		return out
	}
	for _, err := range missing.Unwrap() {
		what, detail, _ := strings.Cut(err.Error(), ": ")
		out = append(out, hostCheck{Name: what, Detail: detail, Remedy: "until then it cannot be started here, or not safely"})
	}
	return out
}
