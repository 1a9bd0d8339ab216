// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func parsed(t *testing.T, src, node string) *Config {
	t.Helper()
	o := options()
	o.Node = node
	c, err := Parse("t.yaml", []byte(src), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatADaemonCannotFollowIsNamedAsInTheFile(t *testing.T) {
	src := string(readFile(t, filepath.Join(testdata, "good", "contract.yaml")))
	running := parsed(t, src, "serv1")
	for _, tt := range []struct {
		from, to string
		want     []string
	}{
		{"lj64 ", "lj64  ", nil},
		{"on-event", "other", nil},
		{":9640", ":9641", []string{"metrics.listen"}},
		{"supervisor_lease: 1s", "supervisor_lease: 2s", []string{"timing.supervisor_lease", "timing.boot_hold"}}, // its default goes by the lease
		{".22/24", ".23/24", []string{"identities.mail.addresses"}},
		{"  mail:", "  post:", []string{"identities.mail", "identities.post"}},
		{"eth2", "eth3", []string{"nodes.serv1.spare"}},
		{"rise: 2", "rise: 1", []string{"services.samba.check"}},
	} {
		if !strings.Contains(src, tt.from) {
			t.Fatalf("the example has no %q", tt.from)
		}
		if got := NeedRestart(running, parsed(t, strings.Replace(src, tt.from, tt.to, 1), "serv1")); !slices.Equal(got, tt.want) {
			t.Errorf("%q → %q: %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
	if got := NeedRestart(running, parsed(t, src, "serv2")); !slices.Equal(got, []string{"node"}) {
		t.Errorf("as the other node: %q", got)
	}
}

func TestWhatADaemonOfManyCannotFollowIsNamedByNode(t *testing.T) {
	src := string(readFile(t, filepath.Join(testdata, "good", "many.yaml")))
	running := parsed(t, src, "serv3")
	const before = "nodes:\n  alpha: {lan: eth0, crossover: eth1, addresses: {lan: 192.0.2.10/24, crossover: 192.168.111.10/24}}\n"
	for _, tt := range []struct {
		from, to string
		want     []string
	}{
		{"prefer: [serv4, serv2]", "prefer: [serv2, serv4]", []string{"identities.files.prefer"}},
		{", prefer: [serv1]", "", []string{"identities.web.prefer"}},
		{"serv2, addresses: [", "serv2, prefer: [serv1, serv3, serv4], addresses: [", nil},         // that is what it meant
		{"home: serv2", "home: serv4", []string{"identities.mail.home", "identities.mail.prefer"}}, // its default goes by the home
		{"nodes:\n", before, []string{"nodes.alpha", "identities.mail.prefer"}},                    // all others have another number, and are the same
	} {
		if !strings.Contains(src, tt.from) {
			t.Fatalf("the example has no %q", tt.from)
		}
		if got := NeedRestart(running, parsed(t, strings.Replace(src, tt.from, tt.to, 1), "serv3")); !slices.Equal(got, tt.want) {
			t.Errorf("%q → %q: %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
}

// A value that is not compared would be taken for followed.
func TestEveryValueIsComparedOrFollowed(t *testing.T) {
	for file, node := range map[string]string{"contract.yaml": "serv1", "many.yaml": "serv3"} {
		t.Run(file, func(t *testing.T) { everyValue(t, file, node) })
	}
}

func everyValue(t *testing.T, file, node string) {
	// What a daemon follows, and what other values make.
	free := []string{"Path", "Keys", "Hooks", "Digest", "ClusterID", "Timing.SuspectAfter", "Timing.ConfirmProbes", "Timing.ServeFor", "Timing.SupervisorLost"}
	src := string(readFile(t, filepath.Join(testdata, "good", file)))
	running, changed := parsed(t, src, node), parsed(t, src, node)
	seen := 0
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if slices.Contains(free, path) || byHome.MatchString(path) || !running.Many() && strings.HasSuffix(path, ".Prefer") {
			return
		}
		if _, leaf := v.Interface().(netip.Addr); !leaf && v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[netip.Prefix]() {
			for i := range v.NumField() {
				walk(strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i))
			}
			return
		}
		if k := v.Kind(); (k == reflect.Slice || k == reflect.Array) && v.Len() > 0 {
			for i := range v.Len() {
				walk(path+"["+strconv.Itoa(i)+"]", v.Index(i))
			}
			return
		}
		was := reflect.New(v.Type()).Elem()
		was.Set(v)
		v.Set(another(t, path, v, len(running.Nodes)))
		if seen++; len(NeedRestart(running, changed)) == 0 {
			t.Errorf("another %s is not seen", path)
		}
		v.Set(was)
	}
	walk("", reflect.ValueOf(changed).Elem())
	if len(NeedRestart(running, changed)) != 0 || seen < 40 {
		t.Errorf("%d values were changed, or not put back", seen)
	}
}

// byHome is what the home says twice; of a pair it says all of Prefer.
var byHome = regexp.MustCompile(`\.Prefer\[0\]$`)

// ofNode are the paths of numbers of nodes.
var ofNode = regexp.MustCompile(`^Self$|\.Home$|\.Prefer\[[0-9]+\]$`)

// another is a value unlike v.
func another(t *testing.T, path string, v reflect.Value, nodes int) reflect.Value {
	t.Helper()
	w := reflect.New(v.Type()).Elem()
	switch v.Interface().(type) {
	case netip.Addr:
		return reflect.ValueOf(netip.MustParseAddr("203.0.113.9"))
	case netip.Prefix:
		return reflect.ValueOf(netip.MustParsePrefix("203.0.113.9/29"))
	}
	switch v.Kind() {
	case reflect.Bool:
		w.SetBool(!v.Bool())
	case reflect.String:
		w.SetString(v.String() + "x")
	case reflect.Int, reflect.Int64:
		w.SetInt(v.Int() + 1)
		if ofNode.MatchString(path) {
			w.SetInt((v.Int() + 1) % int64(nodes))
		}
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		w.SetUint(v.Uint() ^ 1)
	case reflect.Pointer:
		w.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		w.Set(reflect.MakeSlice(v.Type(), 1, 1))
	default:
		t.Fatalf("%s is of kind %s: say here how to change it", path, v.Kind())
	}
	return w
}
