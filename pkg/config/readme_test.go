// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

var (
	fenced   = regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```$")
	topLevel = regexp.MustCompile(`(?m)^  ([a-z-]+):`)
)

// What users copy from the README is taken: whole configurations as they are, services with a cluster around them.
func TestTheREADMEsConfigurationsAndServicesAreGood(t *testing.T) {
	text := string(readFile(t, "../../README.md"))
	found := map[string]int{}
	for _, m := range fenced.FindAllStringSubmatch(text, -1) {
		src := strings.ReplaceAll("\n"+m[2], "\n"+m[1], "\n")[1:]
		key, _, _ := strings.Cut(src, ":")
		switch found[key]++; key {
		case "services":
			var names []string
			for _, name := range topLevel.FindAllStringSubmatch(src, -1) {
				names = append(names, name[1])
			}
			src = fmt.Sprintf(aroundServices, strings.Join(names, ", ")) + src
		case "cluster":
		default: // a part of something else
			continue
		}
		if _, err := Parse("README.md", []byte(src), options()); err != nil {
			t.Errorf("%v\n%s", err, src)
		}
	}
	if found["cluster"] < 2 || found["services"] < 3 {
		t.Errorf("the README's blocks begin with %v", found)
	}
}

const aroundServices = `cluster: a
secret_file: /etc/xdpha/secret
arbiter: {reach: [192.0.2.1, 192.0.2.53, 192.0.2.54]}
nodes:
  serv1: {lan: eth0, crossover: eth1, addresses: {lan: 192.0.2.11/24, crossover: 192.168.111.1/24}}
  serv2: {lan: eth0, crossover: eth1, addresses: {lan: 192.0.2.12/24, crossover: 192.168.111.2/24}}
identities:
  data: {home: serv1, addresses: [192.0.2.21/24], services: [%s]}
`
