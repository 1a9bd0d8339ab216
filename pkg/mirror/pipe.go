// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// PipeCommand is the word after the program's name by which it is rsync's remote shell.
const PipeCommand = "mirror-pipe"

// pipeFD is the socket that the daemon leaves in rsync, and rsync in its remote shell.
const pipeFD = 3

// Pipe is the remote shell: rsync's bytes to the daemon's connection and back.
func Pipe(in io.Reader, out io.WriteCloser) error {
	f := os.NewFile(pipeFD, "the daemon's socket")
	c, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("%s: %w: only the daemon runs this", PipeCommand, err)
	}
	f.Close()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%s: descriptor %d is no unix socket: only the daemon runs this", PipeCommand, pipeFD)
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, in) // rsync or the daemon has ended: each tells the other by the end of its bytes
		_ = conn.CloseWrite()
	}()
	_, err = io.Copy(out, conn)
	if err != nil {
		return fmt.Errorf("%s: %w", PipeCommand, err)
	}
	return out.Close()
}

// shell is the remote shell as rsync's -e takes it: words, quoted as rsync understands.
func shell(program string) (string, error) {
	if strings.ContainsAny(program, `"'`) {
		return "", fmt.Errorf("rsync cannot be told of %q: install xdpha in a directory without quotes in its name", program)
	}
	return `"` + program + `" ` + PipeCommand + " --", nil
}
