// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"github.com/urfave/cli/v2"
)

func demoCommand(env Env) *cli.Command { return &cli.Command{Name: "demo"} }
