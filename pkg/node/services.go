// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"

	"github.com/xdpha/xdpha/loader"
)

// prepareServices finds out what the starts of services would miss on this host, while none waits for it.
func (n *node) prepareServices(ctx context.Context) {
	if err := n.services.Prepare(ctx); err != nil && ctx.Err() == nil {
		n.tell(loader.Now(), "services-unprepared", -1, err.Error(), nil)
	}
}
