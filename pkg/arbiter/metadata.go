// SPDX-License-Identifier: Apache-2.0

package arbiter

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// metadata is what an agent says of itself (OCF resource agent API, as far as it is asked here).
type metadata struct {
	XMLName    xml.Name `xml:"resource-agent"`
	Parameters []named  `xml:"parameters>parameter"`
	Actions    []named  `xml:"actions>action"`
}

type named struct {
	Name string `xml:"name,attr"`
}

// Unknown asks the agent for its metadata, and returns those parameters that it does not know.
// An agent that cannot be asked for power is refused.
func (a *Agent) Unknown(ctx context.Context) (unknown []string, err error) {
	r, err := runAgent(ctx, a.agent, []byte("action=metadata\n"), a.timeout)
	if err != nil {
		return nil, fmt.Errorf("%s, action metadata: %w", a.agent, err)
	}
	var m metadata
	if err := xml.Unmarshal(r.out, &m); err != nil {
		return nil, fmt.Errorf("%s, action metadata: exit status %d, and not the metadata of an agent: %w", a.agent, r.code, err)
	}
	for _, need := range []string{"off", "status"} {
		if !slices.Contains(m.Actions, named{need}) {
			return nil, fmt.Errorf("%s does not know the action %s: take one that switches power", a.agent, need)
		}
	}
	known := map[string]bool{}
	for _, p := range m.Parameters {
		known[canonical(p.Name)] = true
	}
	for _, p := range a.params {
		if !known[canonical(p.Name)] {
			unknown = append(unknown, p.Name)
		}
	}
	return unknown, nil
}

// canonical: agents take - and _ for the same.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }
