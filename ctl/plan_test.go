// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
	"github.com/xdpha/xdpha/pkg/control"
)

// articleUses is what a daemon with the article's configuration says on a node where nothing has run yet,
// with all identities at home on one node if there is one.
func articleUses(t *testing.T, home string) control.Uses {
	t.Helper()
	key := []byte(strings.Repeat("0123456789abcdef", 4) + "\n")
	cfg, err := config.Load(filepath.Join("..", "testdata", "examples", "article", "etc", "xdpha", "xdpha.yaml"),
		config.Options{Node: "serv1", ReadFile: func(string) ([]byte, error) { return key, nil }})
	if err != nil {
		t.Fatal(err)
	}
	u := control.Uses{Node: "serv1", Processors: 4, Memory: 8e9}
	for _, n := range cfg.Nodes {
		u.Nodes = append(u.Nodes, n.Name)
	}
	for _, id := range cfg.Identities {
		h := control.HomeOf{Identity: id.Name, Home: cfg.Nodes[id.Home].Name}
		if home != "" {
			h.Home = home
		}
		u.Homes = append(u.Homes, h)
	}
	for _, s := range cfg.Services {
		use := control.Use{Service: s.Name, Concurrent: s.Concurrent}
		if i := slices.IndexFunc(cfg.Identities, func(id config.Identity) bool { return slices.Contains(id.Services, s.Name) }); i >= 0 {
			use.Identity = cfg.Identities[i].Name
		}
		u.Services = append(u.Services, use)
	}
	return u
}

// articleRatings are in the article's order: Samba and IMAP are the heaviest, then FTP, httpd and sendmail.
var articleRatings = []string{
	"samba=1.5:2500", "imap=1.2:2000", "ftp-upload=0.3:200", "ftp-download=0.3:200", "http=0.25:300", "smtp=0.15:200", "dns=0.05:100", "radius=0.05:50",
}

func TestL2ServicesAreSplitByTheResourcesThatTheyUse(t *testing.T) {
	for _, c := range []struct{ name, home string }{{"plan-article", ""}, {"plan-all-on-one", "serv1"}} {
		p, err := newPlanned(articleUses(t, c.home), nil, articleRatings)
		if err != nil {
			t.Fatal(err)
		}
		if p.bad() {
			t.Errorf("%s: all is rated and each node can carry everything, but it is bad news", c.name)
		}
		golden(t, c.name, p.text())
	}
}
