// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
)

// redrawEvery is slow enough to leave the CPUs to what is measured.
const redrawEvery = 100 * time.Millisecond

// live is the picture in a terminal while a stage runs.
type live struct {
	stage *stage
	stop  context.CancelFunc
}

type redraw struct{}

// finished ends the picture.
type finished struct{}

func (m live) Init() tea.Cmd { return nextFrame() }

func nextFrame() tea.Cmd { return tea.Tick(redrawEvery, func(time.Time) tea.Msg { return redraw{} }) }

func (m live) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case redraw:
		return m, nextFrame()
	case finished:
		return m, tea.Quit
	case tea.KeyPressMsg:
		if k := msg.String(); k == "ctrl+c" || k == "q" {
			m.stop() // the stage cleans up, and then sends finished
		}
	}
	return m, nil
}

func (m live) View() tea.View { return tea.NewView(picture(m.stage.look())) }

// performLive runs the stage under a live picture; the last one stays.
func performLive(ctx context.Context, terminal *os.File, s *stage) (demoResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(live{s, cancel}, tea.WithInput(os.Stdin), tea.WithOutput(terminal), tea.WithoutSignalHandler())
	type outcome struct {
		r   demoResult
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := s.run(ctx)
		done <- outcome{r, err}
		p.Send(finished{})
	}()
	_, err := p.Run()
	cancel() // a terminal that cannot be drawn on ends the stage, too
	out := <-done
	if err != nil {
		return out.r, errors.Join(fmt.Errorf("draw: %w", err), out.err)
	}
	return out.r, out.err
}
