// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/xdpha/xdpha/pkg/lab"
)

// ledger is what was written by a service's clients: names and checksums.
type ledger struct {
	service string
	mu      sync.Mutex
	items   map[string]*item
}

type item struct {
	sum      string
	beganNs  int64 // when the client began to write it
	doneNs   int64 // when the service had accepted it
	promised bool  // it is on both nodes: no fault may lose it
}

func newLedger(service string) *ledger {
	return &ledger{service: service, items: map[string]*item{}}
}

// add is for what the service has accepted.
func (l *ledger) add(name, sum string, beganNs, doneNs int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items[name] = &item{sum: sum, beganNs: beganNs, doneNs: doneNs}
}

// check compares what is to be there with what is; with all, everything that was accepted before a time
// is to be there, not only what was promised. What is there is promised from now on, if promise is set.
func (l *ledger) check(got map[string]string, beforeNs int64, all, promise bool) (good, total int, lost []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, i := range l.items {
		if i.doneNs >= beforeNs {
			continue
		}
		here := got[name] == i.sum
		if i.promised || all {
			total++
			if here {
				good++
			} else {
				lost = append(lost, name)
			}
		}
		i.promised = i.promised || promise && here
	}
	slices.Sort(lost)
	return good, total, lost
}

// forget drops what the failed node had accepted and nobody else had.
func (l *ledger) forget(beforeNs int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, i := range l.items {
		if !i.promised && i.beganNs < beforeNs {
			delete(l.items, name)
		}
	}
}

// kept is data that belongs to an identity, where it lies, and how a client reads all of it.
type kept struct {
	identity string
	paths    []string
	services []string // whose clients wrote it
	fetch    func(*scene, context.Context, string) (map[string]string, error)
}

var keeps = []kept{
	{"files", []string{"/srv/samba/"}, []string{"samba"}, (*scene).fetchFiles},
	{"mail", []string{"/var/mail/"}, []string{"imap", "smtp"}, (*scene).fetchMails},
	{"mail", []string{"/srv/upload/"}, []string{"ftp-upload"}, (*scene).fetchUploads},
}

const fetchLimit = 60 * time.Second

// books are the ledgers of some services; nil: of all.
func (s *scene) books(services []string) (out []*ledger) {
	for _, c := range s.clients {
		if (services == nil || slices.Contains(services, c.service)) && !slices.Contains(out, c.book) {
			out = append(out, c.book)
		}
	}
	return out
}

// eachBook reads an identity's data and hands it to f with each ledger of it.
func (s *scene) eachBook(ctx context.Context, id lab.Identity, f func(b *ledger, got map[string]string, readNs int64)) error {
	for _, k := range keeps {
		books := s.books(k.services)
		if k.identity != id.Name || len(books) == 0 {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, fetchLimit)
		now := lab.NowNs()
		got, err := k.fetch(s, limited, id.Addr.String())
		cancel()
		if err != nil {
			return fmt.Errorf("read the data of %v: %w", k.services, err)
		}
		for _, b := range books {
			f(b, got, now)
		}
	}
	return nil
}

// promise reads all data of an identity, which must be there, and returns when it is on the other node too.
// What was read is promised.
func (s *scene) promise(ctx context.Context, r *Round, id lab.Identity, from *lab.Node) error {
	err := s.eachBook(ctx, id, func(b *ledger, got map[string]string, readNs int64) {
		// A mail that a relay has accepted may be on its way to the mailbox.
		if _, _, lost := b.check(got, readNs, b.service != "smtp", true); len(lost) > 0 {
			r.wrong("%s: %d written and not there, with nothing broken: %s", b.service, len(lost), some(lost))
		}
	})
	if err != nil {
		return err
	}
	for _, k := range keeps {
		if k.identity != id.Name {
			continue
		}
		if err := s.awaitMirrored(ctx, from, k.paths); err != nil {
			return err
		}
	}
	return nil
}

// checkData reads all data of an identity after a fault.
func (s *scene) checkData(ctx context.Context, r *Round, id lab.Identity, takenNs int64) error {
	return s.eachBook(ctx, id, func(b *ledger, got map[string]string, readNs int64) {
		b.forget(takenNs)
		good, total, lost := b.check(got, readNs, false, false)
		for i := range r.Rows {
			if r.Rows[i].Service == b.service {
				r.Rows[i].Data = fmt.Sprintf("%d of %d", good, total)
			}
		}
		if len(lost) > 0 {
			r.wrong("%s: %d of %d lost that were on both nodes: %s", b.service, len(lost), total, some(lost))
		}
	})
}

func some(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

func (s *scene) fetchFiles(ctx context.Context, addr string) (map[string]string, error) {
	dir, err := os.MkdirTemp(s.clientDir(), "fetched-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := s.smb(ctx, addr, "prompt OFF; lcd "+dir+"; mget *"); err != nil {
		return nil, err
	}
	return sums(dir)
}

func (s *scene) fetchUploads(ctx context.Context, addr string) (map[string]string, error) {
	dir, err := os.MkdirTemp(s.clientDir(), "fetched-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	list, err := s.curl(ctx, "--list-only", uploadURL(addr))
	if err != nil {
		return nil, err
	}
	names := strings.Fields(list)
	if len(names) == 0 {
		return nil, nil
	}
	if _, err := s.curl(ctx, "--parallel", "--parallel-max", "8", "--output-dir", dir, "-o", "#1", uploadURL(addr)+"{"+strings.Join(names, ",")+"}"); err != nil {
		return nil, err
	}
	return sums(dir)
}

// sums are the checksums of a directory's files.
func sums(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		all[e.Name()] = sum(string(b))
	}
	return all, nil
}

// mailboxSize is how many mails there are.
func (s *scene) mailboxSize(ctx context.Context, addr string) (int, error) {
	out, err := s.curl(ctx, "-u", mailUser, "-X", "STATUS INBOX (MESSAGES)", "imap://"+addr+"/")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(out, "MESSAGES ")
	count, err := strconv.Atoi(strings.TrimRight(after, ")\r\n"))
	if err != nil {
		return 0, fmt.Errorf("read the mailbox's size: it says %q", out)
	}
	return count, nil
}

// fetchMails reads the whole mailbox: subjects and the checksums of what is below.
func (s *scene) fetchMails(ctx context.Context, addr string) (map[string]string, error) {
	count, err := s.mailboxSize(ctx, addr)
	if err != nil {
		return nil, err
	}
	if count == 0 {
		return nil, nil
	}
	out, err := s.curl(ctx, "-u", mailUser, inbox(addr)+fmt.Sprintf(";MAILINDEX=[1-%d]", count))
	if err != nil {
		return nil, err
	}
	return mails(out), nil
}

// mails takes apart what curl prints of several mails, one after the other.
func mails(text string) map[string]string {
	all := map[string]string{}
	var name string
	var body strings.Builder
	inBody := false
	end := func() {
		if inBody {
			all[name] = sum(body.String())
		}
		inBody = false
		body.Reset()
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		head, value, isHead := strings.Cut(line, ": ")
		switch {
		case isHead && inBody:
			end()
		case isHead && head == "Subject":
			name = value
		case line == "":
			inBody = true
		case inBody:
			body.WriteString(line)
		}
	}
	end()
	return all
}
