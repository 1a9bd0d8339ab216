// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/xdpha/xdpha/pkg/config"
)

// Finding is one thing that was looked at on this host.
type Finding struct {
	Name, Detail string
	OK           bool
	Remedy       string // only if not OK
}

// oldestRsync can what the receiver says that it can; see serverArgs.
var oldestRsync = [2]int{3, 2}

// Probe looks whether this host has what the sets need. It changes nothing.
func Probe(ctx context.Context, cfg *config.Config) (found []Finding) {
	found = append(found, probeRsync(ctx))
	if _, err := landlockABI(); err != nil {
		found = append(found, Finding{"Landlock", err.Error() + "; rsync is not confined to the sets' paths", true, ""})
	} else {
		found = append(found, Finding{"Landlock", "rsync is confined to the sets' paths", true, ""})
	}
	for _, set := range cfg.Mirrors {
		for _, path := range set.Paths {
			found = append(found, probePath("mirror "+set.Name, path))
		}
	}
	return found
}

func probePath(name, path string) Finding {
	r, err := openRoot(path)
	var wrong wrongPath
	switch {
	case errors.As(err, &wrong):
		return Finding{name, wrong.what, false, wrong.remedy}
	case err != nil:
		return Finding{name, err.Error(), false, "run it as root, or as the daemon's user with its capabilities"}
	}
	defer r.Close()
	return Finding{name, path + " is on the file system mounted on " + mountPoint(r.fs), true, ""}
}

func probeRsync(ctx context.Context) Finding {
	const remedy = "install the distribution's package, 3.2 or later, on both nodes"
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "rsync", "--version").Output()
	if err != nil {
		return Finding{"rsync", err.Error(), false, remedy}
	}
	version, ok := rsyncVersion(string(out))
	switch {
	case !ok:
		return Finding{"rsync", "prints no version", false, remedy}
	case version[0] < oldestRsync[0] || version[0] == oldestRsync[0] && version[1] < oldestRsync[1]:
		return Finding{"rsync", fmt.Sprintf("is of version %d.%d", version[0], version[1]), false, remedy}
	}
	for _, can := range []string{"ACLs", "xattrs", "hardlinks"} {
		if strings.Contains(string(out), "no "+can) {
			return Finding{"rsync", "is built without " + can, false, "install a build with " + can}
		}
	}
	return Finding{"rsync", fmt.Sprintf("is of version %d.%d", version[0], version[1]), true, ""}
}

// rsyncVersion reads "rsync  version 3.2.7  protocol version 31", with a v before the number in some.
func rsyncVersion(said string) (v [2]int, ok bool) {
	_, after, ok := strings.Cut(said, "version ")
	parts := strings.SplitN(strings.TrimPrefix(after, "v"), ".", 3)
	if !ok || len(parts) < 2 {
		return v, false
	}
	for i := range v {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
