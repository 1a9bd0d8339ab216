// SPDX-License-Identifier: Apache-2.0

// Package service starts, watches and stops the services of this node, in the way that their
// configuration says.
//
// It owns how services are started and stopped, their processes as far as it started them, their
// order, checks, restarts, the log of what they print, and the reading of what they use. It must not
// know identities' owners, the kernel side or the peer: it is told what to start and stop, and reports.
//
// Three drivers bring a service up and down:
//
//   - exec runs commands by /bin/sh -c. start must leave a running service behind and exit 0, as an
//     init script does: a daemon that stays in the foreground needs `&`, or an option to go to the
//     background. check exits 0 if the service is good. stop must be harmless if the service does not
//     run: it is called before every restart, and when it is not known whether the service runs. So
//     must a warm service's demote be, and its promote if it is promoted.
//     The commands have XDPHA_IDENTITY, XDPHA_GENERATION, XDPHA_NODE, XDPHA_SERVICE and XDPHA_ROLE.
//   - systemd has systemd start and stop a unit, over D-Bus. Jobs are awaited, and states are those
//     of systemd's signals. A unit that systemd restarts by itself is left to it.
//   - ocf runs a resource agent of the ClusterLabs API 1.1, as Pacemaker does. Time limits and how
//     often it is monitored are those of its meta-data where the configuration says nothing. There is
//     no Pacemaker: what agents ask its commands is answered by stand-ins, which keep no attributes.
//
// A service is up when its start has succeeded and then every check was good once, all within the
// start's time limit. Checks beside the driver's own ask as clients would: by TCP, by HTTP, or for a
// process. Bad checks restart it in place until its restart window is used up. Then it has failed,
// for as long as that window: after that the failure does not count any more, and it is tried again
// unless it was stopped.
//
// A warm service has two roles. In standby it runs and is not promoted; only the driver's own check
// is asked. Start promotes it, Standby demotes it.
//
// Processes of exec and ocf services live in a cgroup of their own below the daemon's, whatever they
// do to their process group. A stop of an exec service ends what is left there: SIGTERM, and SIGKILL
// at the stop's time limit; so does a start that fails. What an agent's stop leaves is the agent's to
// say. Without a cgroup tree to write to, process groups have to do, and what leaves them stays.
//
// Another process can end them by End, where the daemon does not act. So that an order from before that
// is not carried out after it, Manager.Permit is asked for each start and promotion when nothing else is
// left to do: the process is there, in its cgroup, and waits to become the command. Killed there, it never
// does. It is asked again when the command runs, and when it is done, and what is not permitted by then is
// killed and stopped: a unit, or where there are no cgroups, may have begun to start.
// Two processes that stop a service do so one after the other, with a limit to their patience.
//
// What commands print goes to the log. It passes through a memory file instead of a pipe, so that a
// service which keeps its start's output open neither blocks nor gets a SIGPIPE when this daemon ends.
// While there is no daemon that file only grows: services that print much should have a log of their own.
//
// Services outlive the daemon. A new daemon calls Adopt: a service that its driver finds running
// counts as up without being started. Of an exec service that is told by its check, or else by its
// cgroup; one that has neither is started again, so its start must bear that. Under systemd the
// daemon's unit needs KillMode=process and Delegate=yes for that.
package service
