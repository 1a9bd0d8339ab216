// SPDX-License-Identifier: Apache-2.0

package arbiter

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/xdpha/xdpha/pkg/config"
)

// distribution needs an agent of the distribution's package.
func distribution(t *testing.T, agent string) {
	t.Helper()
	if _, err := findAgent(agent); err == nil {
		return
	}
	if os.Getenv("XDPHA_REQUIRE_ROOT") == "1" {
		t.Fatal("fence-agents is not installed: run scripts/setup")
	}
	t.Skip("needs the package fence-agents: run scripts/setup")
}

// fence_dummy keeps the power's state in a file.
func TestTheDistributionsDummySwitchesOff(t *testing.T) {
	distribution(t, "fence_dummy")
	state := filepath.Join(t.TempDir(), "power")
	must(t, os.WriteFile(state, []byte("on"), 0o600))
	a := agentOf("fence_dummy", config.FenceParam{Name: "status_file", Value: state})
	if on, err := a.On(t.Context()); err != nil || !on {
		t.Fatalf("before: on %v, %v", on, err)
	}
	_, err := a.Off(t.Context())
	must(t, err)
	b, err := os.ReadFile(state)
	must(t, err)
	if on, err := a.On(t.Context()); err != nil || on || strings.TrimSpace(string(b)) != "off" {
		t.Errorf("after: on %v, %v; the file says %q", on, err, b)
	}
	_, err = a.Off(t.Context()) // what is off can be switched off
	must(t, err)
}

// redfish is as much of a management controller as fence_redfish asks for (DSP0266).
type redfish struct {
	*httptest.Server
	mu    sync.Mutex
	power string
	stuck bool // it takes the order, and does nothing
	seen  []string
}

func newRedfish(t *testing.T) *redfish {
	r := &redfish{power: "On"}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *redfish) serve(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if user, password, _ := q.BasicAuth(); user != "xdpha" || password != secret {
		http.Error(w, "{}", http.StatusUnauthorized)
		return
	}
	const system = "/redfish/v1/Systems/1"
	reset := system + "/Actions/ComputerSystem.Reset"
	link := func(path string) map[string]string { return map[string]string{"@odata.id": path} }
	var answer any
	switch q.URL.Path {
	case "/redfish/v1":
		answer = map[string]any{"Systems": link("/redfish/v1/Systems")}
	case "/redfish/v1/Systems":
		answer = map[string]any{"Members": []any{link(system)}}
	case system:
		answer = map[string]any{"PowerState": r.power, "Actions": map[string]any{"#ComputerSystem.Reset": map[string]string{"target": reset}}}
	case reset:
		var order struct{ ResetType string }
		if err := json.NewDecoder(q.Body).Decode(&order); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.seen = append(r.seen, order.ResetType)
		if order.ResetType == "ForceOff" && !r.stuck {
			r.power = "Off"
		}
		answer = struct{}{}
	default:
		http.NotFound(w, q)
		return
	}
	_ = json.NewEncoder(w).Encode(answer) // the agent has gone: its own affair
}

func (r *redfish) params(t *testing.T, password string) []config.FenceParam {
	t.Helper()
	host, port, err := net.SplitHostPort(r.Listener.Addr().String())
	must(t, err)
	return []config.FenceParam{
		{Name: "ip", Value: host}, {Name: "ipport", Value: port}, {Name: "username", Value: "xdpha"},
		{Name: "password", Value: file(t, password, 0o600), InFile: true}, {Name: "ssl_insecure", Value: "1"},
	}
}

// The distribution's own agent, and a management controller that answers as a server's does.
func TestTheDistributionsRedfishAgentSwitchesOff(t *testing.T) {
	distribution(t, "fence_redfish")
	r := newRedfish(t)
	a := agentOf("fence_redfish", r.params(t, secret)...)
	if on, err := a.On(t.Context()); err != nil || !on {
		t.Fatalf("before: on %v, %v", on, err)
	}
	_, err := a.Off(t.Context())
	must(t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.power != "Off" || !slices.Equal(r.seen, []string{"ForceOff"}) {
		t.Errorf("the power is %s, after %v", r.power, r.seen)
	}
}

func TestAControllerThatRefusesThePasswordIsTold(t *testing.T) {
	distribution(t, "fence_redfish")
	r := newRedfish(t)
	_, err := agentOf("fence_redfish", r.params(t, "another one")...).Off(t.Context())
	if err == nil || !strings.Contains(err.Error(), "fence_redfish, action off for serv2: exit status 1") || strings.Contains(err.Error(), "another one") {
		t.Errorf("told: %v", err)
	}
	if r.power != "On" {
		t.Errorf("the power is %s", r.power)
	}
}

func TestAControllerThatDoesNotObeyIsTold(t *testing.T) {
	distribution(t, "fence_redfish")
	r := newRedfish(t)
	r.stuck = true
	a := agentOf("fence_redfish", append(r.params(t, secret), config.FenceParam{Name: "power_timeout", Value: "1"})...)
	if at, err := a.Off(t.Context()); err == nil {
		t.Errorf("off at %d", at)
	} else if !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("told: %v", err)
	}
}

func TestAnAgentSaysWhichParametersItKnows(t *testing.T) {
	distribution(t, "fence_redfish")
	a := agentOf("fence_redfish")
	for _, name := range []string{"ip", "ipaddr", "ssl-insecure", "ssl_insecure", "pasword", "lanplus"} {
		a.params = append(a.params, config.FenceParam{Name: name, Value: "1"})
	}
	unknown, err := a.Unknown(t.Context())
	must(t, err)
	if fmt.Sprint(unknown) != "[pasword lanplus]" {
		t.Errorf("unknown: %v", unknown)
	}
}
