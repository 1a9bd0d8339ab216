// SPDX-License-Identifier: Apache-2.0

package article

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/xdpha/xdpha/pkg/lab"
)

// uses are the requests of each service of the example: those that run once are used at their
// identity's address, the others at both.
var uses = map[string]request{
	"samba":        nowAndThen(putAndGet, listFiles),
	"imap":         nowAndThen(appendMail, countMails),
	"ftp-upload":   nowAndThen(upload, listUploads),
	"ftp-download": download,
	"http":         getPage,
	"dns":          lookUp,
	"smtp":         nowAndThen(sendMail, verifyUser),
	"radius":       authenticate,
}

// writeEvery makes one of so many requests write.
const writeEvery = 2

func nowAndThen(write, read request) request {
	return func(ctx context.Context, c *client, number int) error {
		if number%writeEvery == 0 {
			return write(ctx, c, number)
		}
		return read(ctx, c, number)
	}
}

// newClients makes clients for all services of the configuration, and ledgers for what they write.
func (s *scene) newClients() error {
	for _, v := range s.cfg.Services {
		ask := uses[v.Name]
		if ask == nil {
			return fmt.Errorf("no client is known for service %s of %s", v.Name, s.cfg.Path)
		}
		book := newLedger(v.Name)
		for i, id := range s.cfg.Identities {
			if v.Concurrent || slices.Contains(id.Services, v.Name) {
				s.clients = append(s.clients, &client{service: v.Name, at: lab.Identities[i], ask: ask, book: book, s: s})
			}
		}
	}
	return nil
}

// curl fails on whatever is not a good answer.
func (s *scene) curl(ctx context.Context, args ...string) (string, error) {
	return s.program(ctx, "", "curl", append([]string{"-sS", "--fail"}, args...)...)
}

// expect is for a request whose answer is known.
func expect(err error, got, want string) error {
	if err == nil && got != want {
		err = fmt.Errorf("answered %q, not %q", got, want)
	}
	return err
}

func getPage(ctx context.Context, c *client, _ int) error {
	got, err := c.s.curl(ctx, "http://"+c.addr()+"/")
	return expect(err, got, c.s.page)
}

func download(ctx context.Context, c *client, _ int) error {
	got, err := c.s.curl(ctx, "ftp://"+c.addr()+"/README")
	return expect(err, got, c.s.readme)
}

// roundRobin is the name of what runs on both nodes.
const roundRobin = "www.example.test"

// resolve asks the name server at an address for a name's addresses.
func (s *scene) resolve(ctx context.Context, server, name string) ([]string, error) {
	out, err := s.program(ctx, "", "dig", "+short", "+time=1", "+tries=1", "@"+server, name, "A")
	addresses := strings.Fields(out)
	slices.Sort(addresses)
	return addresses, err
}

func lookUp(ctx context.Context, c *client, _ int) error {
	got, err := c.s.resolve(ctx, c.addr(), roundRobin)
	return expect(err, strings.Join(got, " "), bothAddresses())
}

func bothAddresses() string {
	return lab.Identities[0].Addr.String() + " " + lab.Identities[1].Addr.String()
}

func authenticate(ctx context.Context, c *client, _ int) error {
	_, err := c.s.program(ctx, "User-Name=alice,User-Password=wonderland\n", "radclient", "-q", "-t", "1", "-r", "1", c.addr(), "auth", "testing123")
	return err
}

// payload is what a client writes, and its name.
func (c *client) payload(number int) (name, content, file string, err error) {
	noise := make([]byte, 1500)
	rand.Read(noise)
	name = fmt.Sprintf("%s-%s-%d", c.service, c.at.Name, number)
	content = hex.EncodeToString(noise) + "\n"
	file = filepath.Join(c.s.clientDir(), name)
	return name, content, file, os.WriteFile(file, []byte(content), 0o600)
}

func sum(content string) string {
	h := sha256.Sum256([]byte(content))
	return hex.EncodeToString(h[:])
}

// smb runs commands of smbclient, without this machine's configuration and caches.
func (s *scene) smb(ctx context.Context, addr, commands string) error {
	dir := s.clientDir()
	_, err := s.program(ctx, "", "smbclient", "//"+addr+"/files", "-N", "-s", "/dev/null", "--option=cache directory="+dir, "--option=lock directory="+dir, "--option=private dir="+dir, "-c", commands)
	return err
}

func putAndGet(ctx context.Context, c *client, number int) error {
	name, content, file, err := c.payload(number)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	back := file + ".back"
	defer os.Remove(back)
	began := lab.NowNs()
	if err := c.s.smb(ctx, c.addr(), fmt.Sprintf("put %s %s; get %s %s", file, name, name, back)); err != nil {
		return err
	}
	got, err := os.ReadFile(back)
	if err := expect(err, sum(string(got)), sum(content)); err != nil {
		return err
	}
	c.book.add(name, sum(content), began, lab.NowNs())
	return nil
}

func listFiles(ctx context.Context, c *client, _ int) error {
	return c.s.smb(ctx, c.addr(), "ls")
}

func listUploads(ctx context.Context, c *client, _ int) error {
	_, err := c.s.curl(ctx, "--list-only", uploadURL(c.addr()))
	return err
}

func countMails(ctx context.Context, c *client, _ int) error {
	_, err := c.s.mailboxSize(ctx, c.addr())
	return err
}

func verifyUser(ctx context.Context, c *client, _ int) error {
	got, err := c.s.curl(ctx, "--mail-rcpt", mailTo, "smtp://"+c.addr()+"/client")
	if err == nil && !strings.Contains(got, mailTo) {
		err = fmt.Errorf("answered %q", got)
	}
	return err
}

func upload(ctx context.Context, c *client, number int) error {
	name, content, file, err := c.payload(number)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	began := lab.NowNs()
	if _, err := c.s.curl(ctx, "-T", file, uploadURL(c.addr())+name); err != nil {
		return err
	}
	c.book.add(name, sum(content), began, lab.NowNs())
	return nil
}

func uploadURL(addr string) string { return "ftp://" + addr + ":2121/incoming/" }

// letter is a mail with a payload; lines end as RFC 5322 has it.
func letter(name, content string) string {
	return fmt.Sprintf("From: bob@example.org\r\nTo: alice@example.test\r\nSubject: %s\r\n\r\n%s", name, wrap(content))
}

// wrap makes lines of an acceptable length (RFC 5322, 2.1.1).
func wrap(content string) string {
	var b strings.Builder
	for content = strings.TrimSpace(content); len(content) > 0; {
		n := min(76, len(content))
		b.WriteString(content[:n] + "\r\n")
		content = content[n:]
	}
	return b.String()
}

const (
	mailTo   = "alice@example.test"
	mailUser = "alice:wonderland"
)

func inbox(addr string) string { return "imap://" + addr + "/INBOX" }

func appendMail(ctx context.Context, c *client, number int) error {
	return c.mail(number, func(file, name string) error {
		_, err := c.s.curl(ctx, "-u", mailUser, "-T", file, inbox(c.addr()))
		if err != nil {
			return err
		}
		got, err := c.s.curl(ctx, "-u", mailUser, inbox(c.addr())+"?HEADER%20SUBJECT%20"+name)
		if err == nil && len(strings.Fields(got)) < len([]string{"*", "SEARCH", "1"}) {
			err = fmt.Errorf("the mail that was stored is not found: %q", got)
		}
		return err
	})
}

func sendMail(ctx context.Context, c *client, number int) error {
	return c.mail(number, func(file, _ string) error {
		_, err := c.s.curl(ctx, "--mail-from", "bob@example.org", "--mail-rcpt", mailTo, "-T", file, "smtp://"+c.addr()+"/client")
		return err
	})
}

// mail writes a mail to a file, and it down as sent if it was accepted.
func (c *client) mail(number int, send func(file, name string) error) error {
	name, content, file, err := c.payload(number)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	if err := os.WriteFile(file, []byte(letter(name, content)), 0o600); err != nil {
		return err
	}
	began := lab.NowNs()
	if err := send(file, name); err != nil {
		return err
	}
	c.book.add(name, sum(strings.TrimSpace(content)), began, lab.NowNs())
	return nil
}
