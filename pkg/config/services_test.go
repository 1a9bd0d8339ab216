// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestServicesOfEveryKindMeanWhatTheySay(t *testing.T) {
	c := good(t, "services.yaml")
	restart := ServiceRestart{3, time.Minute}
	want := map[string]Service{
		"drbd": {
			OCF:  &OCF{Provider: "linbit", Type: "drbd", Params: []OCFParam{{"adjust_master_score", "0 10 1000 10000"}, {"drbd_resource", "r0"}, {"wfc_timeout", "5"}}},
			Warm: true, Rise: 2, Fall: 1, Restart: restart,
		},
		"disk": {
			OCF: &OCF{
				Provider: "heartbeat", Type: "Filesystem", Depth: 20,
				Params: []OCFParam{{"device", "/dev/drbd0"}, {"directory", "/srv/samba"}, {"force_unmount", "true"}, {"fstype", "ext4"}},
			},
			Rise: 2, Fall: 1, Restart: restart, Timeout: ServiceTimeout{Start: 30 * time.Second}, After: []string{"drbd"},
		},
		"samba": {
			Systemd: "smbd.service", TCP: netip.MustParseAddrPort("[2001:db8::21]:445"), Ports: []uint16{445, 139},
			Every: time.Second, Rise: 2, Fall: 3, Restart: restart, After: []string{"disk"},
			Timeout: ServiceTimeout{90 * time.Second, 90 * time.Second, 5 * time.Second},
		},
		"database": {
			Start: "db start", Stop: "db stop", Check: "db status", Promote: "db promote", Demote: "db demote", Warm: true,
			Process: "/run/db.pid", TCP: netip.MustParseAddrPort("192.0.2.21:5432"), Ports: []uint16{5432},
			Every: 2 * time.Second, Rise: 2, Fall: 3, Restart: restart, Timeout: ServiceTimeout{20 * time.Second, 20 * time.Second, 5 * time.Second},
		},
		"web": {
			Systemd: "apache2.service", Concurrent: true, MoveIfUnhealthy: true,
			HTTP:  &HTTP{URL: "http://127.0.0.1/status", StatusMin: 200, StatusMax: 299, Contains: "ok"},
			Every: 2 * time.Second, Rise: 2, Fall: 3, Restart: restart, Timeout: ServiceTimeout{90 * time.Second, 90 * time.Second, 5 * time.Second},
		},
	}
	for _, s := range c.Services {
		w, ok := want[s.Name]
		if !ok {
			continue
		}
		w.Name = s.Name
		if diff := cmp.Diff(w, s, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s -want +got:\n%s", s.Name, diff)
		}
		delete(want, s.Name)
	}
	if len(want) > 0 {
		t.Errorf("not read: %v", want)
	}
}

func TestAServiceThatNothingAsksOfIsNotChecked(t *testing.T) {
	for _, tt := range []struct {
		s    Service
		kind string
		want bool
	}{
		{Service{Start: "a"}, "exec", false},
		{Service{Start: "a", Check: "b"}, "exec", true},
		{Service{Start: "a", Process: "b"}, "exec", true},
		{Service{Systemd: "a.service"}, "systemd", true},
		{Service{OCF: &OCF{}}, "ocf", true},
	} {
		if tt.s.Checked() != tt.want || tt.s.Kind() != tt.kind {
			t.Errorf("%+v: kind %s, checked %t", tt.s, tt.s.Kind(), tt.s.Checked())
		}
	}
}

func TestEverySettingOfAServiceIsPartOfTheDigestAndNeedsARestart(t *testing.T) {
	src := string(readFile(t, filepath.Join(testdata, "good", "services.yaml")))
	parse := func(src string) *Config {
		c, err := Parse("t.yaml", []byte(src), options())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	base := parse(src)
	for _, tt := range []struct{ old, new, setting string }{
		{"smbd.service", "samba.service", "services.samba.systemd"},
		{"wfc_timeout: 5", "wfc_timeout: 6", "services.drbd.ocf"},
		{"depth: 20", "depth: 10", "services.disk.ocf"},
		{"promote: db promote", "promote: db up", "services.database.exec"},
		{"[445, 139]", "[445]", "services.samba.ports"},
		{"200..299", "200", "services.web.check"},
		{"contains: ok", "contains: up", "services.web.check"},
		{"/run/db.pid", "postgres", "services.database.check"},
		{`:445"`, `:446"`, "services.samba.check"},
		{"start_after_silence: 2s", "start_after_silence: 3s", "services.imap.start_after_silence"},
		{"start_after_silence: 2s", "start_after_silence: 0s", "services.imap.start_after_silence"},
		{"on_unhealthy: move", "on_unhealthy: report", "services.web.on_unhealthy"},
	} {
		other := parse(strings.Replace(src, tt.old, tt.new, 1))
		if other.Digest == base.Digest {
			t.Errorf("%q → %q kept the digest", tt.old, tt.new)
		}
		if got := NeedRestart(base, other); !slices.Equal(got, []string{tt.setting}) {
			t.Errorf("%q → %q: %v, want %s", tt.old, tt.new, got, tt.setting)
		}
	}
}

// A silent node is given the time that its guard needs, unless it cannot know that it is cut off, or a
// service says how long.
func TestServicesWaitForASilentNodesGuard(t *testing.T) {
	src := string(readFile(t, filepath.Join(testdata, "good", "services.yaml")))
	none := strings.Replace(src, "reach: [192.0.2.1]", "none: true", 1)
	for _, tt := range []struct {
		name, src   string
		files, mail time.Duration
	}{
		{"by default", src, time.Second, 2 * time.Second},
		{"a slower guard", strings.Replace(src, "profile: balanced", "{profile: balanced, end_services_after: 1500ms}", 1), 2 * time.Second, 2 * time.Second},
		{"nobody is cut off", none, 0, 2 * time.Second},
		{"the longest counts", strings.Replace(src, "ports: [445, 139]", "start_after_silence: 5s", 1), 5 * time.Second, 2 * time.Second},
		{"harmless", strings.Replace(src, "start_after_silence: 2s", "start_after_silence: 0s", 1), time.Second, 0},
	} {
		c, err := Parse("t.yaml", []byte(tt.src), options())
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if files, mail := c.AfterSilence(c.Identities[0]), c.AfterSilence(c.Identities[1]); files != tt.files || mail != tt.mail {
			t.Errorf("%s: files after %v, mail after %v, want %v and %v", tt.name, files, mail, tt.files, tt.mail)
		}
	}
}

func TestServicesWaitForAPeerAsLongAsAStopMayTake(t *testing.T) {
	src := string(readFile(t, filepath.Join(testdata, "good", "services.yaml")))
	for _, tt := range []struct {
		name, src string
		want      time.Duration
	}{
		{"of an agent, whose own time is not known", src, 95 * time.Second},
		{"longer than that", strings.Replace(src, "timeout: {start: 30s}", "timeout: {start: 30s, stop: 3m}", 1), 185 * time.Second},
		{"as it is written", strings.Replace(src, "profile: balanced", "{profile: balanced, await_services: 10s}", 1), 10 * time.Second},
	} {
		c, err := Parse("t.yaml", []byte(tt.src), options())
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := c.AwaitServices(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	least, err := Parse("t.yaml", readFile(t, filepath.Join(testdata, "good", "least.yaml")), options())
	if err != nil {
		t.Fatal(err)
	}
	if got := least.AwaitServices(); got != 10*time.Second {
		t.Errorf("with no services: %v", got)
	}
}

func TestTheDigestIsThatOfFilesFromBeforeServicesWaited(t *testing.T) {
	src := string(readFile(t, filepath.Join(testdata, "good", "least.yaml")))
	parse := func(timing string) *Config {
		c, err := Parse("t.yaml", []byte(src+timing), options())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	left, written, other := parse(""), parse("timing: {end_services_after: 500ms, await_services: 10s}\n"), parse("timing: {await_services: 11s}\n")
	if left.Digest != written.Digest || left.Parts() != written.Parts() {
		t.Error("what is written as it is by default changes the digest")
	}
	if left.Digest == other.Digest || left.Parts() == other.Parts() {
		t.Error("another setting keeps the digest")
	}
}
