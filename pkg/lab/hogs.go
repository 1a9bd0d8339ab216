// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// timeoutStatus is how coreutils' timeout says that the time was up.
const timeoutStatus = 124

// StartHogs fills every CPU that this process may use with a real-time program
// that never sleeps, for d. Its priority must lie below the prober's, less one:
// the program that ends the hog in time runs just above it, on whichever CPU,
// because a hog's equal would wait for it forever. So hogs end even if nobody
// else comes to run; the kernel leaves some 50 ms of each second to the starved.
//
// They are processes, because a Go thread that spins holds up its collector, and a
// thread of their own priority starts them, so that all spin within some ten
// milliseconds, however busy the machine was before and is with the first of them.
// wait returns when they are gone, and fails if one did not spin until the end.
func StartHogs(priority int, d time.Duration) (wait func() error, err error) {
	if priority < 1 || priority+1 >= probePriority {
		return nil, fmt.Errorf("start hogs: priority %d is not from 1 to %d", priority, probePriority-2)
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return nil, fmt.Errorf("start hogs: read the CPUs of this process: %w", err)
	}
	var hogs []*exec.Cmd
	wait = func() error {
		var errs []error
		for _, h := range hogs {
			errs = append(errs, awaitHog(h))
		}
		return errors.Join(errs...)
	}
	err = atPriority(priority+1, func() error {
		for cpu := 0; len(hogs) < cpus.Count(); cpu++ {
			if !cpus.IsSet(cpu) {
				continue
			}
			h := hog(cpu, priority, d)
			if err := h.Start(); err != nil {
				return err
			}
			hogs = append(hogs, h)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start hogs: %w", err), wait())
	}
	return wait, nil
}

// atPriority runs f on a real-time thread, which ends with it.
func atPriority(priority int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: see Prober.run
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: uint32(priority)}
		if err := unix.SchedSetAttr(0, attr, 0); err != nil {
			done <- fmt.Errorf("become a real-time thread: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// hog writes to /dev/null, which takes no time and never blocks.
func hog(cpu, priority int, d time.Duration) *exec.Cmd {
	seconds := strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
	cmd := exec.Command("chrt", "--fifo", strconv.Itoa(priority+1), "timeout", seconds,
		"chrt", "--fifo", strconv.Itoa(priority), "taskset", "--cpu-list", strconv.Itoa(cpu), "yes")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a Ctrl-C is for the lab, and these end by themselves
	return cmd
}

func awaitHog(cmd *exec.Cmd) error {
	err := cmd.Wait()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == timeoutStatus {
		return nil
	}
	return fmt.Errorf("hog %d ended before its time: %w", cmd.Process.Pid, errors.Join(err, errors.New(cmd.ProcessState.String())))
}

// KeepBusy starts n ordinary processes that do nothing but run. They end with this one.
func KeepBusy(ctx context.Context, n int) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // pdeathsig is the thread's death
		defer runtime.UnlockOSThread()
		var all []*exec.Cmd
		var err error
		for range n {
			cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "while :; do :; done")
			cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
			if err = cmd.Start(); err != nil {
				err = fmt.Errorf("start a busy process: %w", err)
				cancel()
				break
			}
			all = append(all, cmd)
		}
		started <- err
		<-ctx.Done()
		for _, cmd := range all {
			_ = cmd.Wait() // killed, as intended
		}
	}()
	stop = func() { cancel(); <-ended }
	if err := <-started; err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}
