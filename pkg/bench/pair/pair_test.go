// SPDX-License-Identifier: Apache-2.0

package pair

import (
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/control"
	"github.com/xdpha/xdpha/pkg/lab"
)

// well is what both nodes say when all is well.
func well() map[string]control.Status {
	all := map[string]control.Status{}
	for _, name := range []string{lab.Serv1, lab.Serv2} {
		s := control.Status{Node: name, Peer: control.Peer{State: control.PeerUp}, Links: []control.Link{{Name: "lan", Up: true}}}
		for _, id := range lab.Identities {
			st := control.Identity{Name: id.Name, Home: id.Home, Owner: id.Home, Gate: control.GateClosed, Armed: true}
			if id.Home == name {
				st.Gate, st.Armed = control.GateOpen, false
			}
			s.Identities = append(s.Identities, st)
		}
		all[name] = s
	}
	return all
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	if got := unprepared(well()); got != "" {
		t.Errorf("all is well, but: %s", got)
	}
	for want, harm := range map[string]func(s *control.Status){
		`sees its peer "dead"`:         func(s *control.Status) { s.Peer.State = control.PeerDead },
		"does not know its identities": func(s *control.Status) { s.Identities = nil },
		"files owned by nobody":        func(s *control.Status) { s.Identities[0].Owner = "" },
		"gate of mail closed: lease":   func(s *control.Status) { s.Identities[1].Gate, s.Identities[1].Reason = control.GateClosed, "lease" },
		"not ready to take files":      func(s *control.Status) { s.Identities[0].Armed = false },
		"not heard link lan":           func(s *control.Status) { s.Links[0].Up = false },
	} {
		known := well()
		s := known[lab.Serv2]
		harm(&s)
		known[lab.Serv2] = s
		if got := unprepared(known); !strings.Contains(got, want) {
			t.Errorf("%q is said, want %q", got, want)
		}
	}
}

func TestNodesThatSeeOwnersOtherwiseAreNotAtRest(t *testing.T) {
	if got := disagreement(well()); got != "" {
		t.Errorf("they agree, but: %s", got)
	}
	for want, harm := range map[string]func(i *control.Identity){
		"serv2 sees serv2 at 0":               func(i *control.Identity) { i.Owner = lab.Serv2 },
		"generation 0, serv2 sees serv1 at 1": func(i *control.Identity) { i.Generation = 1 },
	} {
		known := well()
		harm(&known[lab.Serv2].Identities[0])
		if got := disagreement(known); !strings.Contains(got, want) {
			t.Errorf("%q is said, want %q", got, want)
		}
	}
}

func TestMetricsAreReadByNameAndLabels(t *testing.T) {
	m, err := parse(strings.NewReader("# HELP a Some words.\n# TYPE a gauge\na{x=\"1\"} 2\na{x=\"2 or 3\"} 5e-1\nab 7\nb -1\n"))
	if err != nil || len(m) != 4 || m[`a{x="2 or 3"}`] != 0.5 || m["b"] != -1 || m.Max("a") != 2 || m.Max("ab") != 7 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := parse(strings.NewReader("# nothing\n")); err == nil {
		t.Error("nothing was taken for metrics")
	}
}
