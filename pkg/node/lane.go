// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync"
)

// lane carries out jobs one after the other. Who gives it one does not wait: the loop would lose its
// lease by a disk that hangs, or a service that cannot be killed.
type lane struct {
	mu   sync.Mutex // guards jobs
	jobs []func(ctx context.Context)
	more chan struct{} // of one place: there are jobs
}

func newLane() *lane { return &lane{more: make(chan struct{}, 1)} }

func (l *lane) put(job func(ctx context.Context)) {
	l.mu.Lock()
	l.jobs = append(l.jobs, job)
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// take returns the next job, nil if there is none.
func (l *lane) take() (job func(ctx context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.jobs) == 0 {
		return nil
	}
	job, l.jobs[0] = l.jobs[0], nil
	l.jobs = l.jobs[1:]
	return job
}

// waiting is how many jobs have not begun.
func (l *lane) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.jobs)
}

// run carries them out until ctx ends; those that wait then are not begun.
func (l *lane) run(ctx context.Context) {
	for ctx.Err() == nil {
		if job := l.take(); job != nil {
			job(ctx)
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.more:
		}
	}
}
