// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	if o.CheckMode {
		if info, err := os.Stat(name); err == nil {
			if msg := secretModeWrong(info, name); msg != "" {
				r.add(file.at, "%s", msg)
				return nil, nil
			}
		}
	}
	read := o.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	src, err := read(name)
	if err != nil {
		r.add(file.at, "cannot read the secret: %v; make one with: (umask 077; xdpha keygen > %s), the same on both nodes", err, name)
		return nil, nil
	}
	return parseKeys(name, src, cluster)
}

func secretModeWrong(info fs.FileInfo, name string) string {
	switch perm := info.Mode().Perm(); {
	case !info.Mode().IsRegular():
		return fmt.Sprintf("the secret %s is not a regular file; write the file's name", name)
	case perm&0o077 != 0:
		return fmt.Sprintf("the secret %s has mode %04o, others can use it; run: chmod 0600 %s", name, perm, name)
	}
	return ""
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
	return Key{
		K0: binary.LittleEndian.Uint64(sum[0:8]),
		K1: binary.LittleEndian.Uint64(sum[8:16]),
		ID: sum[16],
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
