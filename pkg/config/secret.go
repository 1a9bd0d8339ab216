// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	secretBytes = 32
	maxKeys     = 2 // the kernel holds the signing key and one more
)

// NewSecret returns a line for the secret file: 32 random bytes in hex.
func NewSecret() (string, error) {
	b := make([]byte, secretBytes)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// loadKeys reads the secret file. Mistakes about the file as a whole are placed
// in the configuration, those in a line of it in the secret file, unshown.
func loadKeys(r *report, file value[string], cluster string, o Options) ([]Key, error) {
	name := file.v
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(r.path), name)
	}
	read := o.ReadFile
	if read == nil {
		read = ReadSecret
	}
	src, err := read(name)
	if err != nil {
		r.add(file.at, "cannot read the secret: %v; %s", err, secretRemedy(err, name))
		return nil, nil
	}
	defer clear(src)
	return parseKeys(name, src, cluster)
}

// DaemonUser is the user whom packages make for the daemon; the secret is its.
const DaemonUser = "xdpha"

// maxSecretFile is far more than all keys with empty lines between them.
const maxSecretFile = 4096

// ReadSecret reads a file that only its owner can use, and whose owner may know the secret. It
// looks at the file that it has opened: a name can be given to another one meanwhile.
func ReadSecret(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe without a writer must not hold the daemon
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := secretFileWrong(info, name); err != nil {
		return nil, err
	}
	src, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if len(src) > maxSecretFile {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxSecretFile)
	}
	return src, err
}

// secretFileWrong names what lets others at the secret.
func secretFileWrong(info fs.FileInfo, name string) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch perm := info.Mode().Perm(); {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", name)
	case !ok:
		return fmt.Errorf("the file system does not tell whose %s is", name)
	case !mayOwnSecret(int(stat.Uid)):
		return fmt.Errorf("%w: %s belongs to %s, who is neither root nor the daemon's user", errSecretOwner, name, userName(int(stat.Uid)))
	case perm&0o077 != 0:
		return fmt.Errorf("%w: %s has mode %04o, others can use it", errSecretMode, name, perm)
	}
	return nil
}

var (
	errSecretOwner = errors.New("wrong owner")
	errSecretMode  = errors.New("wrong mode")
)

// secretRemedy is what to do about a secret that cannot be read.
func secretRemedy(err error, name string) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("make one with: xdpha keygen --out %s, the same on every node", name)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errSecretOwner):
		return fmt.Sprintf("run: chown %s %s", userName(os.Geteuid()), name)
	case errors.Is(err, errSecretMode):
		return fmt.Sprintf("run: chmod 0600 %s (and make a new secret if somebody may have read this one)", name)
	}
	return "write the name of a file made by xdpha keygen"
}

// mayOwnSecret admits root, the own user, and to root the daemon's: `xdpha check` is run by root.
func mayOwnSecret(uid int) bool {
	own := os.Geteuid()
	return uid == 0 || uid == own || own == 0 && userName(uid) == DaemonUser
}

func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// parseKeys reads one key a line; empty lines are passed over.
func parseKeys(name string, src []byte, cluster string) ([]Key, error) {
	r := &report{path: name} // without lines: a secret is never printed
	var keys []Key
	for i, line := range bytes.Split(src, []byte("\n")) {
		line = bytes.TrimSpace(line)
		at := pos{i + 1, 1}
		if len(line) == 0 {
			continue
		}
		secret, ok := decodeHex(line)
		if !ok || len(secret) != secretBytes {
			r.add(at, "not a secret: %d characters that are not 64 hex digits; write a line made by xdpha keygen", len(line))
			break
		}
		key := deriveKey(secret, cluster)
		if len(keys) == maxKeys {
			r.add(at, "more than %d secrets; keep the one that signs first and the one being rotated out", maxKeys)
			break
		}
		if len(keys) > 0 && keys[0].ID == key.ID {
			r.add(at, "this secret cannot be told from the first one (same secret or same key id); replace it by a line made by xdpha keygen")
			break
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 && len(r.errs) == 0 {
		r.add(pos{1, 1}, "no secret in the file; write a line made by xdpha keygen")
	}
	return keys, r.err()
}

// decodeHex takes as long for one secret as for another: it looks nothing up by a digit's value, and
// jumps by none.
func decodeHex(text []byte) (b []byte, ok bool) {
	good := 1 ^ len(text)&1
	b = make([]byte, len(text)/2)
	for i := range b {
		high, highOK := hexDigit(text[2*i])
		low, lowOK := hexDigit(text[2*i+1])
		b[i] = byte(high<<4 | low)
		good &= highOK & lowOK
	}
	return b, good == 1
}

func hexDigit(c byte) (value, ok int) {
	between := func(lo, c, hi int) int {
		return subtle.ConstantTimeLessOrEq(lo, c) & subtle.ConstantTimeLessOrEq(c, hi)
	}
	const toLower = 'a' ^ 'A'
	decimal, letter := between('0', int(c), '9'), between('a', int(c|toLower), 'f')
	value = subtle.ConstantTimeSelect(letter, int(c|toLower)-'a'+10, 0)
	return subtle.ConstantTimeSelect(decimal, int(c)-'0', value), decimal | letter
}

// deriveKey binds the secret to the cluster: the same file used for two
// clusters does not let one answer the other.
func deriveKey(secret []byte, cluster string) Key {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("xdpha heartbeat key 1\x00" + cluster))
	sum := mac.Sum(nil)
	line, err := hkdf.Key(sha256.New, secret, []byte(cluster), "xdpha mirror key 1", 32)
	if err != nil {
		panic(err) // of a length that no hash can give
	}
	return Key{
		K0:   binary.LittleEndian.Uint64(sum[0:8]),
		K1:   binary.LittleEndian.Uint64(sum[8:16]),
		ID:   sum[16],
		Line: [32]byte(line),
	}
}

// clusterID names the cluster in every frame.
func clusterID(name string) uint32 {
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint32(sum[:])
}

// autoMAC makes an identity's locally administered unicast address.
func autoMAC(cluster, identity string) [6]byte {
	sum := sha256.Sum256([]byte("xdpha mac 1\x00" + cluster + "\x00" + identity))
	mac := [6]byte(sum[:6])
	mac[0] = mac[0]&^1 | 2 // IEEE 802: bit 0 group, bit 1 locally administered
	return mac
}
