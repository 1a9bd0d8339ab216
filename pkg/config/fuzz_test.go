// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Whatever the file holds, it is a configuration that keeps its promises, or is refused with the
// place of each mistake and what to do.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	for _, kind := range []string{"good", "bad"} {
		for _, name := range files(f, kind) {
			f.Add(readFile(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) { judge(t, src) })
}

// otherTexts are what a value may be taken for.
var otherTexts = []string{"1ms", "-1", "0", "9223372036854775807ns", "192.0.2.0-192.0.2.255/24", `"::/0"`, "serv1", "[serv2, serv1]", "[a, b]", "{a: b}", "null", "*x", "2e400", "\u2028"}

// oneValue returns how many values good configurations have, and one with the value of a number replaced: that comes
// further than bytes at random.
func oneValue(t testing.TB) (values int, replaced func(which int, text string) []byte) {
	type place struct {
		whole      string
		start, end int
	}
	var all []place
	for _, file := range []string{"contract.yaml", "many.yaml"} {
		whole := string(readFile(t, filepath.Join(testdata, "good", file)))
		for _, at := range valuesOf(whole) {
			all = append(all, place{whole, at[0], at[1]})
		}
	}
	return len(all), func(which int, text string) []byte {
		p := all[which]
		return []byte(p.whole[:p.start] + text + p.whole[p.end:])
	}
}

func TestEveryValueIsJudgedWhateverItIs(t *testing.T) {
	values, replaced := oneValue(t)
	for i := range values {
		for _, text := range otherTexts {
			judge(t, replaced(i, text))
		}
	}
}

func FuzzOneValue(f *testing.F) {
	values, replaced := oneValue(f)
	for i, text := range otherTexts { // few: before it does anything new Go runs them all
		f.Add(uint(i*values/len(otherTexts)), text)
	}
	f.Fuzz(func(t *testing.T, which uint, text string) { judge(t, replaced(int(which%uint(values)), text)) })
}

// valuesOf finds what stands behind a colon, or in a list.
func valuesOf(src string) (places [][2]int) {
	for i := 0; i < len(src); i++ {
		if c := src[i]; c != ':' && c != '[' && c != ',' || i+2 >= len(src) || c == ':' && src[i+1] != ' ' {
			continue
		}
		start := i + 1 + len(src[i+1:]) - len(strings.TrimLeft(src[i+1:], " "))
		end := start + strings.IndexAny(src[start:]+"\n", ",]}\n#")
		if end > start {
			places = append(places, [2]int{start, end})
		}
	}
	return places
}

func judge(t *testing.T, src []byte) {
	t.Helper()
	c, err := Parse("fuzz.yaml", src, options())
	again, errAgain := Parse("fuzz.yaml", src, options())
	if !reflect.DeepEqual(c, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		t.Fatalf("read twice, it is %+v, %v and %+v, %v", c, err, again, errAgain)
	}
	if err != nil {
		placed(t, c, err, 1+strings.Count(string(src), "\n"))
		return
	}
	if c == nil {
		t.Fatal("neither a configuration nor an error")
	}
	kept(t, c)
}

// placed: no configuration comes with an error, and every mistake has its place within the file.
func placed(t *testing.T, c *Config, err error, lines int) {
	t.Helper()
	if c != nil {
		t.Fatalf("a configuration beside the error %v", err)
	}
	if !located.MatchString(err.Error()) {
		t.Fatalf("error without its place or remedy: %v", err)
	}
	all := Errors{}
	if one := (*Error)(nil); !errors.As(err, &all) && errors.As(err, &one) {
		all = Errors{one}
	}
	for _, e := range all {
		if e.Line < 1 || e.Line > lines || e.Column < 1 {
			t.Fatalf("in %d lines, %d:%d is no place: %v", lines, e.Line, e.Column, err)
		}
	}
	if len(all) == 0 {
		t.Fatalf("an error of another kind: %v", err)
	}
}

// kept: what the kernel's maps and the promises rest on.
func kept(t *testing.T, c *Config) {
	t.Helper()
	if c.Timing.DeadAfter < 3*c.Timing.Probe || c.Timing.SuspectAfter < c.Timing.Probe || c.Timing.ConfirmProbes < 2 {
		t.Fatalf("timings out of relation: %+v", c.Timing)
	}
	if len(c.Nodes) < 2 || len(c.Nodes) > MaxNodes || c.Self < 0 || c.Self >= len(c.Nodes) || c.Many() && (c.Arbiter.Etcd == nil || c.Timing.SoloKeep) {
		t.Fatalf("nodes that cannot be a cluster: %+v", c)
	}
	if len(c.Identities) == 0 || len(c.Identities) > MaxIdentities || len(c.Arbiter.Reach) > MaxReach || len(c.Keys) == 0 {
		t.Fatalf("more or less than fits: %+v", c)
	}
	macs := map[[6]byte]bool{}
	for _, id := range c.Identities {
		if id.MAC[0]&1 != 0 || macs[id.MAC] || !sound(c, id.Prefer, id.Home) {
			t.Fatalf("identity %+v", id)
		}
		macs[id.MAC] = true
		for _, r := range id.Addresses {
			r.Prefixes()
		}
	}
}

// sound: the candidates are nodes, home first and none twice.
func sound(c *Config, candidates []int, home int) bool {
	seen := map[int]bool{}
	for _, n := range candidates {
		if n < 0 || n >= len(c.Nodes) || seen[n] {
			return false
		}
		seen[n] = true
	}
	return len(candidates) >= 2 && candidates[0] == home
}

// Whatever the secret's file holds, it is keys that differ, or is refused without being shown.
func FuzzSecret(f *testing.F) {
	other := strings.Repeat("fedcba9876543210", 4)
	for _, seed := range []string{"", secretLine, secretLine + "\n" + other, secretLine + "\n" + secretLine, secretLine[:63] + "g", strings.ToUpper(other), strings.ToUpper(other) + "\r\n", "\x00", secretLine + " " + other} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		want, wrong := hex.DecodeString(string(src))
		if got, ok := decodeHex(src); ok != (wrong == nil) || ok && !bytes.Equal(got, want) {
			t.Fatalf("%q is read as %x, %v; it is %x, %v", src, got, ok, want, wrong)
		}
		keys, err := parseKeys("secret", src, "lj64")
		if err == nil && (len(keys) == 0 || len(keys) > maxKeys || len(keys) == 2 && keys[0].ID == keys[1].ID) {
			t.Fatalf("%d keys", len(keys))
		}
		if err == nil {
			return
		}
		if !located.MatchString(err.Error()) {
			t.Fatalf("error without its place or remedy: %v", err)
		}
		for _, word := range strings.Fields(string(src)) {
			if len(word) >= 16 && strings.Contains(err.Error(), word) {
				t.Fatalf("the message shows what is in the file: %v", err)
			}
		}
	})
}
