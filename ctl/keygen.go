// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/config"
)

func keygenCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "keygen", Usage: "a new secret for the cluster",
		Description: `Every frame between the nodes is signed with a key derived from this secret: 32 random bytes
in hex. All nodes need the same file, mode 0600.

   xdpha keygen --out /etc/xdpha/secret        a new file; one that exists is never overwritten

To put a new secret in the place of the old one, while everything runs: the first line of the file
signs, both lines are accepted. Each step on every node, before the next one:
   1. xdpha keygen >> /etc/xdpha/secret        on one node; copy the file to the others
      xdpha reload                             on each: all accept the new secret
   2. put the second line first                in all files
      xdpha reload                             on each: all sign with the new secret
   3. delete the second line                   in all files
      xdpha reload                             on each: the old secret is good for nothing
A step that comes too early is refused, with the reason.`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "out", Usage: "write a new `FILE` with mode 0600 instead of printing"}},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			secret, err := config.NewSecret()
			if err != nil {
				return err
			}
			if out := c.String("out"); out != "" {
				return writeSecret(out, secret)
			}
			_, err = fmt.Fprintln(env.Stdout, secret)
			return err
		},
	}
}

// writeSecret makes the file, and leaves none that is only half written.
func writeSecret(path, secret string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write secret: %s exists and is kept; remove it first, or append a second line with: xdpha keygen >> %s", path, path)
	}
	if err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write secret: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}
