// SPDX-License-Identifier: Apache-2.0

package etcd

import "time"

// surely is the time on this node's clock, in ns, until when a lease lasts that was renewed for
// ttl by a request sent at sent; see the package comment.
func (o Options) surely(sent int64, ttl time.Duration) int64 {
	d := (float64(ttl)/(1+o.ClockError) - float64(o.Linger)) * (1 - o.ClockError)
	return sent + int64(d)
}
