// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

func TestCheckNamesWhatAServiceMissesOnThisHost(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "no-bus"))
	cfg := &config.Config{Services: []config.Service{
		{Name: "disk", OCF: &config.OCF{Provider: "acme", Type: "Disk"}},
		{Name: "good", Start: "true", Stop: "true"},
		{Name: "smb", Systemd: "smbd.service"},
	}}
	got := serviceChecks(t.Context(), cfg, t.TempDir())
	if len(got) != 3 || got[0].Name != "cgroups of services" || !got[0].OK {
		t.Fatalf("%+v", got)
	}
	for i, want := range []hostCheck{
		{Name: "service disk", Detail: "ocf:acme:Disk: there is no /usr/lib/ocf/resource.d/acme/Disk on this host: install the package that has it"},
		{Name: "service smb", Detail: "reach systemd over D-Bus: "},
	} {
		if g := got[1+i]; g.OK || g.Name != want.Name || !strings.HasPrefix(g.Detail, want.Detail) || g.Remedy == "" {
			t.Errorf("%+v, want %+v", g, want)
		}
	}
	cfg.Services = cfg.Services[1:2]
	if got := serviceChecks(t.Context(), cfg, t.TempDir()); len(got) != 1 {
		t.Errorf("a service that misses nothing: %+v", got)
	}
	cfg.Services = nil
	if got := serviceChecks(t.Context(), cfg, t.TempDir()); len(got) != 0 {
		t.Errorf("no services: %+v", got)
	}
}
