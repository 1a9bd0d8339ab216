// SPDX-License-Identifier: Apache-2.0

// Command xdpha makes two servers stand in for each other.
package main

import (
	"os"

	"github.com/xdpha/xdpha/ctl"
)

func main() { os.Exit(ctl.Run(ctl.System(), os.Args[1:])) }
