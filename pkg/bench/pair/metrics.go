// SPDX-License-Identifier: Apache-2.0

package pair

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// metricsAddress is where the lab's configuration has them, within the node.
const metricsAddress = "127.0.0.1:9640"

// Metrics are a node's values by name and labels, as Prometheus would read them.
type Metrics map[string]float64

// Read scrapes a node from inside its namespace.
func Read(ctx context.Context, l *lab.Lab, node string) (Metrics, error) {
	dial := func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		err = l.Do(node, func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, "tcp", metricsAddress); return err })
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tr := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddress+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("read metrics of %s: %w", node, err)
	}
	defer resp.Body.Close()
	m, err := parse(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read metrics of %s: %w", node, err)
	}
	return m, nil
}

// parse reads the text format: NAME VALUE or NAME{LABELS} VALUE, a line each.
func parse(r io.Reader) (Metrics, error) {
	m := Metrics{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		name, value, ok := strings.Cut(sc.Text(), "} ")
		if ok {
			name += "}"
		} else if name, value, ok = strings.Cut(sc.Text(), " "); !ok {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil { // else it is a comment
			m[name] = v
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(m) == 0 {
		return nil, errors.New("there is none")
	}
	return m, nil
}

// Max is the greatest of all values of one name, whatever their labels.
func (m Metrics) Max(name string) (v float64) {
	for k, x := range m {
		if k == name || strings.HasPrefix(k, name+"{") {
			v = max(v, x)
		}
	}
	return v
}
