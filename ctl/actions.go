// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xdpha/xdpha/pkg/control"
)

// waitFlag bounds the wait for an order to be carried out.
func waitFlag() cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: time.Minute, Usage: "how long to wait for it to be done"}
}

// waitDoneFlag is for orders that copy data first, for as long as that takes.
func waitDoneFlag() cli.Flag {
	return &cli.DurationFlag{Name: "timeout", DefaultText: "until it is done, or has failed", Usage: "how long to wait for it to be done; it goes on after that"}
}

// order sends an order and says what was done.
func order(env Env, c *cli.Context, done string, f func(context.Context, *control.Client) error) error {
	return withClient(c, func(ctx context.Context, client *control.Client) error {
		if limit := c.Duration("timeout"); limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s; look at: xdpha status", limit))
			defer cancel()
		}
		if err := f(ctx, client); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("%s: %w", c.Command.Name, err)
		}
		_, err := fmt.Fprintln(env.Stdout, done)
		return err
	})
}

func moveCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "move", Usage: "hand an identity over to another node, as planned", ArgsUsage: "IDENTITY [NODE]",
		Description: `The new owner prepares first: its addresses are put in place and its services can be started.
Only then does the owner's kernel release the identity, and the other kernel opens its gate on
that very frame. Of two nodes it goes, without NODE, to the one that does not own it; with more NODE
must be there, and be the identity's home or in its prefer, and the order is given on the owner or on NODE.

   xdpha move files            to the other node of two
   xdpha move files serv2      to serv2; if it is there already, nothing happens

Data that is mirrored is copied first, while services run, and what has changed since while they are
stopped: it waits for that, hours if it must. xdpha status --watch on the owner shows how far it is.

A move that cannot be done is refused with the reason (exit status 1), and nothing has changed.`,
		Flags: []cli.Flag{&cli.BoolFlag{DisableDefaultText: true, Name: "force", Usage: "also to a NIC that does not reach the clients, and past a service that does not stop"}, waitDoneFlag()},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 1, 2); err != nil {
				return err
			}
			id, to := c.Args().Get(0), c.Args().Get(1)
			done := id + " is moved"
			if to != "" {
				done += " to " + to
			}
			return order(env, c, done, func(ctx context.Context, cl *control.Client) error {
				return cl.Move(ctx, id, to, c.Bool("force"))
			})
		},
	}
}

func givebackCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "giveback", Usage: "hand identities back to their home node", ArgsUsage: "[IDENTITY]",
		Description: `After a takeover an identity stays where it is until it is given back (failback: manual, the
default), so that a node that has just failed does not take its work again before somebody has
looked at it.

With data that is mirrored it is copied first while services run, then services stop, what has
changed since is copied, and only then they start at home. It waits for all of that, hours if it must;
xdpha status --watch, on the node that has it now, shows how far it is. If this command is ended, or
its --timeout, the give-back goes on. --dry-run, on the node that has it now, says how much there is
to copy and changes nothing.

   xdpha giveback              all identities that are not at home
   xdpha giveback files        this one
   xdpha giveback --dry-run`,
		Flags: []cli.Flag{&cli.BoolFlag{DisableDefaultText: true, Name: "dry-run", Usage: "only say what would be copied"}, jsonFlag(), waitDoneFlag()},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 1); err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return estimate(env, c)
			}
			id := c.Args().First()
			done := "all identities are at home"
			if id != "" {
				done = id + " is at home"
			}
			return order(env, c, done, func(ctx context.Context, cl *control.Client) error { return cl.Giveback(ctx, id) })
		},
	}
}

// estimate says what giving back would copy.
func estimate(env Env, c *cli.Context) error {
	return withClient(c, func(ctx context.Context, client *control.Client) error {
		list, err := client.Estimates(ctx)
		if err != nil {
			return err
		}
		if only := c.Args().First(); only != "" {
			list = slices.DeleteFunc(list, func(e control.Estimate) bool { return e.Identity != only })
		}
		if c.Bool("json") {
			return json.NewEncoder(env.Stdout).Encode(list)
		}
		_, err = io.WriteString(env.Stdout, estimateText(list))
		return err
	})
}

func estimateText(list []control.Estimate) string {
	if len(list) == 0 {
		return "nothing here is away from its home: ask the node that owns it\n"
	}
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "%s to %s: %d of %d files to copy, %s, and %d to delete; services are off for %s, which comparing takes, and for what changes meanwhile\n",
			e.Identity, e.To, e.Copied, e.Files, byteText(e.Bytes), e.Deleted, time.Duration(e.CompareS*float64(time.Second)).Round(10*time.Millisecond))
	}
	return b.String()
}

// byteText is a size with three digits and a unit.
func byteText(n uint64) string {
	v, units := float64(n), []string{"B", "kB", "MB", "GB", "TB"}
	for len(units) > 1 && v >= 1000 {
		v, units = v/1000, units[1:]
	}
	return threeDigits(v) + " " + units[0]
}

func standbyCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "standby", Usage: "evacuate this node and hold it, for work on it", ArgsUsage: "on|off",
		Description: `   xdpha standby on            hands all identities to other nodes; this one takes none, also not
                               if their owner dies; with mirrored data it is copied first, and this waits for it
   xdpha standby off           it may take again; what was moved stays there (see: xdpha giveback)

It is remembered across restarts and reboots.`,
		Flags:  []cli.Flag{waitDoneFlag()},
		Action: onOff(env, "this node is in standby", "this node is no longer in standby", (*control.Client).Standby),
	}
}

func freezeCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "freeze", Usage: "stop all automatic action", ArgsUsage: "on|off",
		Description: `   xdpha freeze on             this node takes nothing by itself and moves nothing: for work on the network
   xdpha freeze off            as before

Orders (move, giveback) are refused until it ends. Another node may still take over what this one
can no longer serve: freeze all to keep all where it is. It is remembered across restarts and reboots.`,
		Flags:  []cli.Flag{waitFlag()},
		Action: onOff(env, "frozen: nothing moves by itself", "no longer frozen", (*control.Client).Freeze),
	}
}

func reloadCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "have the daemon follow its changed secret file and hooks",
		Description: `Secrets (secret_file) and hooks are followed while it runs, and no heartbeat is missed. If anything
else has changed, or a value is wrong, or the nodes would not hear each other any more, all of it is
refused with the reason, and nothing has changed. SIGHUP does the same, and tells of it in xdpha events.

Everything else is followed at a start. Restart the daemon of one node, then that of the next: each
hands over before it ends. Nothing is taken over while nodes have different configurations.

How to put a new secret in the place of the old one: xdpha keygen --help`,
		Flags: []cli.Flag{waitFlag()},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 0, 0); err != nil {
				return err
			}
			return order(env, c, "the configuration is followed", func(ctx context.Context, cl *control.Client) error { return cl.Reload(ctx) })
		},
	}
}

func confirmOffCommand(env Env) *cli.Command {
	return &cli.Command{
		Name: "confirm-off", Usage: "say that a dead peer is off, when its fence agent cannot", ArgsUsage: "NODE",
		Description: `With arbiter fence nothing of a dead node is taken before its agent has said that it is off. If the
agent fails (its management controller has lost its power with the server), somebody must go and
look. NODE is the dead one; see that it is off and stays off, then:

   xdpha confirm-off serv1

If it is not off, there are two owners until a frame of the new one reaches it. It is refused while
the node is heard.`,
		Flags: []cli.Flag{waitFlag()},
		Action: func(c *cli.Context) error {
			if err := needArgs(c, 1, 1); err != nil {
				return err
			}
			node := c.Args().First()
			return order(env, c, node+" counts as off", func(ctx context.Context, cl *control.Client) error { return cl.ConfirmOff(ctx, node) })
		},
	}
}

func onOff(env Env, onText, offText string, f func(*control.Client, context.Context, bool) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := needArgs(c, 1, 1); err != nil {
			return err
		}
		on, done := true, onText
		switch word := c.Args().First(); word {
		case "on":
		case "off":
			on, done = false, offText
		default:
			return usagef("%s: %q is neither on nor off", c.Command.Name, word)
		}
		return order(env, c, done, func(ctx context.Context, cl *control.Client) error { return f(cl, ctx, on) })
	}
}
