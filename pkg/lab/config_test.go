// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

func TestTheLabsConfigurationIsAGoodOne(t *testing.T) {
	for name, s := range map[string]Scene{
		"as it is":       {},
		"everything":     {Profile: "fast", NoReach: true, SupervisorLease: "2s", UpDelay: "500ms", Failback: "manual", Staging: "ahead", SpareLess: true, Service: "restart: {times: 9}\ncheck: {every: 100ms}", Extra: "# more\n"},
		"its own timing": {Probe: "2ms", DeadAfter: "9ms", SupervisorLease: "1s"},
		"many addresses": {Addresses: 4096},
		"a program":      {Program: "/usr/local/bin/files", Mirror: "{paths: [/srv]}"},
		"a short range":  {Addresses: 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Lab{Dir: t.TempDir()}
			must(t, os.Mkdir(filepath.Join(l.Dir, "services"), 0o700))
			must(t, l.WriteConfig(s))
			secret, err := os.ReadFile(filepath.Join(l.Dir, "secret"))
			must(t, err)
			must(t, l.WriteConfig(s))
			if again, err := os.ReadFile(filepath.Join(l.Dir, "secret")); err != nil || string(again) != string(secret) {
				t.Errorf("the secret changed: %v", err)
			}
			for self, node := range []string{Serv1, Serv2} {
				c, err := config.Load(l.ConfigPath(), config.Options{Node: node})
				must(t, err)
				if c.Self != self || len(c.Identities) != len(Identities) || len(c.Services) != 3 || c.Arbiter.None != s.NoReach {
					t.Errorf("as %s: %+v", node, c)
				}
				if own := strings.HasPrefix(c.Services[1].Stop, `"/usr/local/bin/files" stop "`); own != (s.Program != "") {
					t.Errorf("as %s: a service: %+v", node, c.Services[1])
				}
				if exec := c.Services[1]; (exec.Restart.Times == 9) != (s.Service != "") {
					t.Errorf("as %s: a service: %+v", node, exec)
				}
				if s.Probe != "" && (c.Timing.Probe != 2*time.Millisecond || c.Timing.DeadAfter != 9*time.Millisecond) {
					t.Errorf("as %s: %+v", node, c.Timing)
				}
				for i, id := range c.Identities {
					wantAddresses(t, id, i, s.Addresses)
					if id.Name != Identities[i].Name || id.MAC != Identities[i].MAC || id.Addresses[0].First != Identities[i].Addr || c.Nodes[id.Home].Name != Identities[i].Home {
						t.Errorf("identity %d: %+v", i, id)
					}
				}
			}
		})
	}
}

func wantAddresses(t *testing.T, id config.Identity, i, further int) {
	t.Helper()
	want := []netip.Addr{Identities[i].Addr}
	if i == 0 && further > 0 {
		want = append(want, RangeAddr(further))
	}
	if HasIPv6() {
		want = append(want, Identities[i].Addr6)
	}
	var last []netip.Addr
	count := 0
	for _, r := range id.Addresses {
		last = append(last, r.Last)
		count += r.Count()
	}
	if n := len(want); !slices.Equal(last, want) || i == 0 && further > 0 && count != n-1+further {
		t.Errorf("%s has %d addresses, its ranges end with %v; want %v", id.Name, count, last, want)
	}
}

func TestTheLabsConfigurationSaysNothingThatWasNotAskedFor(t *testing.T) {
	keys := []string{"pacer: kernel", "peer_supervisor_lost: takeover", "probe:", "dead_after:", "10.21.0.1"}
	for _, s := range []Scene{{}, {Pacer: "kernel", PeerSupervisorLost: "takeover", Probe: "1ms", DeadAfter: "5ms", Addresses: 2}} {
		l := &Lab{Dir: t.TempDir()}
		must(t, l.WriteConfig(s))
		b, err := os.ReadFile(l.ConfigPath())
		must(t, err)
		for _, k := range keys {
			if got := strings.Contains(string(b), k); got != (s.Pacer != "") {
				t.Errorf("%+v: it says %q: %v", s, k, got)
			}
		}
	}
}
