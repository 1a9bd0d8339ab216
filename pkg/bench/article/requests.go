// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"fmt"

	"github.com/xdpha/xdpha/pkg/lab"
)

// uses are the requests of each service of the example: those that run once are used at their
// identity's address, the others at both.
var uses = map[string]request{
	"http": getPage,
}

// newClients makes clients for all services of the configuration.
func (s *scene) newClients() error {
	for _, v := range s.cfg.Services {
		ask := uses[v.Name]
		if ask == nil {
			return fmt.Errorf("no client is known for service %s of %s", v.Name, s.cfg.Path)
		}
		for i, id := range s.cfg.Identities {
			if v.Concurrent || contains(id.Services, v.Name) {
				s.clients = append(s.clients, &client{service: v.Name, at: lab.Identities[i], ask: ask, s: s})
			}
		}
	}
	return nil
}

// curl fails on whatever is not a good answer.
func (s *scene) curl(ctx context.Context, args ...string) (string, error) {
	return s.program(ctx, "", "curl", append([]string{"-sS", "--fail"}, args...)...)
}

func getPage(ctx context.Context, c *client, _ int) error {
	got, err := c.s.curl(ctx, "http://"+c.addr()+"/")
	return expect(err, got, c.s.page)
}

// expect is for a request whose answer is known.
func expect(err error, got, want string) error {
	if err == nil && got != want {
		err = fmt.Errorf("answered %q, not %q", got, want)
	}
	return err
}
