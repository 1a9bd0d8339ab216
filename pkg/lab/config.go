// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// Scene is what varies in the lab's configuration; the zero value is usable.
type Scene struct {
	Profile         string // default balanced; custom if Probe or DeadAfter is there
	Probe           string // as in the configuration, with DeadAfter
	DeadAfter       string
	Pacer           string            // as in the configuration; empty leaves the default
	NoReach         bool              // arbiter none instead of reach
	Etcd            string            // endpoints, as in a list of the configuration: arbiter etcd instead of reach; more than two nodes need it
	Prefer          map[string]string // by identity, who takes it when its home cannot, as in a list of the configuration; none leaves the default
	Fence           string            // arbiter fence, as in the configuration, beside reach or (with NoReach) alone; one line
	UpDelay         string            // as in the configuration; empty leaves the default
	SupervisorLease string            // as in the configuration; empty leaves the default
	// PeerSupervisorLost is what to do about a peer whose kernel lives and whose daemon does not; empty leaves the default.
	PeerSupervisorLost string
	Failback           string // of both identities; empty leaves the default
	Staging            string // of both identities; empty leaves the default
	Service            string // further settings of both identities' services, as in the configuration: "restart: {times: 9}", one a line
	NoTickle           bool   // of both identities: clients are not told of a takeover
	Program            string // the first identity's service in the usual one's place: run with start, stop or check and the file to leave
	SpareLess          bool   // nodes without spare NICs
	Mirror             string // of the first identity, as a mirror set is written in one line: "{paths: [/srv]}"
	Addresses          int    // how many addresses the first identity has beside the usual ones: RangeAddr(1) to RangeAddr(Addresses)
	Extra              string // appended as it is
}

// RangeAddr is the i-th further address of the first identity, counted from 1. The client has one in the same network.
func RangeAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 21, byte(i >> 8), byte(i)})
}

// ConfigPath is the configuration of all nodes.
func (l *Lab) ConfigPath() string { return filepath.Join(l.Dir, "xdpha.yaml") }

// WriteConfig writes the cluster's configuration and, once, its secret. Services
// leave a file named SERVICE@TTL, because the TTL tells on which node they run.
func (l *Lab) WriteConfig(s Scene) error {
	switch {
	case s.Probe != "" || s.DeadAfter != "":
		s.Profile = "custom"
	case s.Profile == "":
		s.Profile = "balanced"
	}
	secret := filepath.Join(l.Dir, "secret")
	if _, err := os.Stat(secret); err != nil {
		key := make([]byte, 32)
		rand.Read(key)
		if err := os.WriteFile(secret, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
			return fmt.Errorf("write the lab's secret: %w", err)
		}
	}
	var b strings.Builder
	data := struct {
		Scene
		Secret, Services string
		Nodes            []sceneNode
		Identities       []Identity
	}{s, secret, filepath.Join(l.Dir, "services"), sceneNodes(l.size()), Identities[:]}
	if err := configTemplate.Execute(&b, data); err != nil {
		return fmt.Errorf("write the lab's configuration: %w", err)
	}
	if err := os.WriteFile(l.ConfigPath(), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the lab's configuration: %w", err)
	}
	return nil
}

// sceneNode is a node as the configuration has it.
type sceneNode struct{ Name, Lan, Crossover string }

func sceneNodes(count int) (nodes []sceneNode) {
	for i := range count {
		nodes = append(nodes, sceneNode{server(i), lanAddress(i), crossAddress(i)})
	}
	return nodes
}

var configTemplate = template.Must(template.New("config").Funcs(template.FuncMap{
	"ipv6":  HasIPv6,
	"at":    RangeAddr,
	"verbs": func() []string { return []string{"start", "stop", "check"} },
	"lines": func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
	},
	"mac": func(m [6]byte) string {
		return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
	},
}).Parse(`cluster: lab
secret_file: {{.Secret}}

timing:
  profile: {{.Profile}}
{{- with .Probe}}
  probe: {{.}}
{{- end}}
{{- with .DeadAfter}}
  dead_after: {{.}}
{{- end}}
{{- with .Pacer}}
  pacer: {{.}}
{{- end}}
{{- with .SupervisorLease}}
  supervisor_lease: {{.}}
{{- end}}
{{- with .UpDelay}}
  updelay: {{.}}
{{- end}}
{{- with .PeerSupervisorLost}}
  peer_supervisor_lost: {{.}}
{{- end}}

arbiter:
{{- with .Fence}}
  fence: {{.}}
{{- end}}
{{- if .Etcd}}
  etcd: {endpoints: [{{.Etcd}}], ttl: 2s}
{{- else if not .NoReach}}
  reach: [192.0.2.1, 192.0.2.53, 192.0.2.54]
{{- else if not .Fence}}
  none: true
{{- end}}

nodes:
{{- range .Nodes}}
  {{.Name}}: {lan: eth0, crossover: eth1, {{if not $.SpareLess}}spare: eth2, {{end}}addresses: {lan: {{.Lan}}, crossover: {{.Crossover}}}}
{{- end}}

identities:
{{- range $i, $id := .Identities}}
  {{.Name}}:
    home: {{.Home}}
{{- with index $.Prefer .Name}}
    prefer: [{{.}}]
{{- end}}
    mac: "{{mac .MAC}}"
    addresses: [{{.Addr}}/24{{if and $.Addresses (not $i)}}, "{{at 1}}-{{at $.Addresses}}/16"{{end}}{{if ipv6}}, "{{.Addr6}}/64"{{end}}]
    services: [{{.Name}}d]
{{- if and $.Mirror (not $i)}}
    mirror: [{{.Name}}]
{{- end}}
{{- if $.NoTickle}}
    tickle: false
{{- end}}
{{- with $.Failback}}
    failback: {{.}}
{{- end}}
{{- with $.Staging}}
    staging: {{.}}
{{- end}}
{{- end}}

services:
{{- range $i, $id := .Identities}}
  {{.Name}}d:
    exec:
{{- if and $.Program (not $i)}}
{{- range $verb := verbs}}
      {{$verb}}: '"{{$.Program}}" {{$verb}} "{{$.Services}}/{{$id.Name}}d@$(cat /proc/sys/net/ipv4/ip_default_ttl)"'
{{- end}}
{{- else}}
      start: 'touch "{{$.Services}}/{{.Name}}d@$(cat /proc/sys/net/ipv4/ip_default_ttl)"'
      stop: 'rm -f "{{$.Services}}/{{.Name}}d@$(cat /proc/sys/net/ipv4/ip_default_ttl)"'
      check: 'test -e "{{$.Services}}/{{.Name}}d@$(cat /proc/sys/net/ipv4/ip_default_ttl)"'
{{- end}}
{{- range lines $.Service}}
    {{.}}
{{- end}}
{{- end}}
  dns:
    run: concurrent
    exec:
      start: 'touch "{{.Services}}/dns@$(cat /proc/sys/net/ipv4/ip_default_ttl)"'
      stop: 'rm -f "{{.Services}}/dns@$(cat /proc/sys/net/ipv4/ip_default_ttl)"'
      check: 'test -e "{{.Services}}/dns@$(cat /proc/sys/net/ipv4/ip_default_ttl)"'

{{- with .Mirror}}
mirrors:
  {{(index $.Identities 0).Name}}: {{.}}
{{- end}}

metrics: {listen: "127.0.0.1:9640"}
{{.Extra}}`))
