// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
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

// checkOnce is when services that must run once are ended on one node, and start on another.
type checkOnce struct {
	EndUS     int64 `json:"end_services_after_us,omitempty"`  // 0: nobody asks for the right to serve
	SilenceUS int64 `json:"start_after_silence_us,omitempty"` // the longest of the identities'; 0: a silent node's are not waited for
	AwaitUS   int64 `json:"await_services_us"`
}

func newCheckOnce(cfg *config.Config) *checkOnce {
	once, any := &checkOnce{AwaitUS: cfg.AwaitServices().Microseconds()}, false
	if cfg.Arbiter.AsksForRight() {
		once.EndUS = cfg.Timing.EndServices.Microseconds()
	}
	for _, id := range cfg.Identities {
		any = any || len(id.Services) > 0
		once.SilenceUS = max(once.SilenceUS, cfg.AfterSilence(id).Microseconds())
	}
	if !any {
		return nil
	}
	return once
}

func onceText(w io.Writer, once *checkOnce) {
	if once == nil {
		return
	}
	if once.EndUS != 0 {
		fmt.Fprintf(w, "end services\t%s\twithout the right to serve: a guard ends what must run once, if the daemon has not\n", us(once.EndUS))
	}
	if once.SilenceUS != 0 {
		fmt.Fprintf(w, "silent node\t%s\tand its services start elsewhere (start_after_silence, the longest)\n", us(once.SilenceUS))
	}
	fmt.Fprintf(w, "await services\t%s\tof a node that is heard and says that they run there; then they start all the same\n", us(once.AwaitUS))
}
