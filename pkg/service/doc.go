// SPDX-License-Identifier: Apache-2.0

// Package service starts, watches and stops the services of this node, by the
// commands of their configuration.
//
// It owns their processes while a command runs, their order, checks, restarts
// and the log of what they print. It must not know identities' owners, the
// kernel side or the peer: it is told what to start and stop, and reports.
//
// The commands are run by /bin/sh -c in a process group of their own, with
// XDPHA_IDENTITY, XDPHA_GENERATION, XDPHA_NODE and XDPHA_SERVICE set:
//
//   - start must leave a running service behind and exit 0, as an init script
//     does. A start that does not exit within its time limit is a failure: a
//     daemon that stays in the foreground needs `&`, or an option to go to the
//     background. The service is up when start has exited 0 and then, if there
//     is a check, the check was good once, all within the start's time limit.
//   - check exits 0 if the service is good. Without a check a service counts as
//     up from its start to its stop, whatever happens to it.
//   - stop must be harmless if the service does not run: it is called before
//     every restart, and when it is not known whether the service runs. Without
//     one a stop only ends the checks.
//
// A command over its time limit loses its whole process group: SIGTERM, and
// SIGKILL two seconds later. So does a start that fails or is stopped; a start
// that succeeds leaves its children alone.
//
// What commands print goes to the log. It passes through a memory file instead
// of a pipe, so that a service which keeps its start's output open neither
// blocks nor gets a SIGPIPE when this daemon ends. While there is no daemon that
// file only grows: services that print much should have a log of their own.
//
// Services outlive the daemon. A new daemon calls Adopt: a service whose check
// is good counts as up without being started. A service without a check cannot
// be adopted: it is started again, so its start must bear that. Under systemd the daemon's unit needs KillMode=process for that.
//
// A cgroup per service, with which nothing it leaves behind can escape a stop,
// is not part of this package's promise yet.
package service
