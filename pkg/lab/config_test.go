// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

func TestTheLabsConfigurationIsAGoodOne(t *testing.T) {
	for name, s := range map[string]Scene{
		"as it is":   {},
		"everything": {Profile: "fast", NoReach: true, SupervisorLease: "2s", Failback: "manual", Staging: "ahead", SpareLess: true, Extra: "# more\n"},
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
				c, err := config.Load(l.ConfigPath(), config.Options{Node: node, CheckMode: true})
				must(t, err)
				if c.Self != self || len(c.Identities) != len(Identities) || len(c.Services) != 3 || c.Arbiter.None != s.NoReach {
					t.Errorf("as %s: %+v", node, c)
				}
				for i, id := range c.Identities {
					if id.Name != Identities[i].Name || id.MAC != Identities[i].MAC || id.Addresses[0].First != Identities[i].Addr || c.Nodes[id.Home].Name != Identities[i].Home {
						t.Errorf("identity %d: %+v", i, id)
					}
				}
			}
		})
	}
}
