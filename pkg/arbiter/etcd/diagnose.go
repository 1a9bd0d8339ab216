// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
)

// diagnose connects to each member anew: the client says only that nobody answered in time.
func (c *cluster) diagnose(ctx context.Context) string {
	said := make([]string, len(c.members))
	var wg sync.WaitGroup
	for i, m := range c.members {
		wg.Go(func() {
			said[i] = m.Endpoints()[0] + " answers, but not for the cluster: it has lost its majority, or refuses this client"
			if err := c.greet(ctx, m.Endpoints()[0]); err != nil {
				said[i] = fmt.Sprintf("%s: %v", m.Endpoints()[0], err)
			}
		})
	}
	wg.Wait()
	return strings.Join(said, "; ")
}

// greet waits for a member's first byte: a server that refuses a certificate says so only there.
func (c *cluster) greet(ctx context.Context, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	if u.Scheme != "https" {
		return nil
	}
	security := &tls.Config{}
	if c.tls != nil {
		security = c.tls.Clone()
	}
	security.ServerName, security.NextProtos = u.Hostname(), []string{"h2"}
	conn = tls.Client(conn, security)
	_, err = conn.Read(make([]byte, 1))
	return err
}
