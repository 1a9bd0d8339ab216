// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/xdpha/xdpha/pkg/arbiter/etcdtest"
)

// running runs a keeper until the returned function, or the test, ends it.
func running(t *testing.T, k *Keeper) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(func() {
		stop()
		k.Close()
	})
	return stop
}

func TestOfTwoThatWantAKeyOneGetsIt(t *testing.T) {
	r := newRig(t)
	a, b := r.keeper("serv1"), r.keeper("serv2")
	running(t, a)
	running(t, b)
	gen := uint64(1)
	won := map[string]int{}
	for r.g.times < 300 {
		gen++
		wins := []func(){func() { a.Win(0, gen+gen%2) }, func() { b.Win(0, gen+1-gen%2) }}
		wins[r.g.times%2]()
		time.Sleep(time.Duration(r.g.times%7) * 500 * time.Microsecond) // a head start, of all lengths
		wins[1-r.g.times%2]()
		winner := ""
		await(t, "one of two wins", func() bool {
			for _, n := range []string{"serv1", "serv2"} {
				if r.g.open(n) {
					winner = n
				}
			}
			return winner != ""
		})
		won[winner]++
		a.GiveUp(0)
		b.GiveUp(0)
		holder := map[string]*Keeper{"serv1": a, "serv2": b}[winner]
		await(t, "the key is free", func() bool { return holder.Claims()[0].Holder == "" })
		gen = max(a.Claims()[0].Stored, b.Claims()[0].Stored, gen) // a round may be lost to a higher generation
	}
	if won["serv1"] == 0 || won["serv2"] == 0 {
		t.Errorf("always the same one won: %v", won)
	}
}

func TestTheKeyIsHeldWhileTheLeaderStops(t *testing.T) {
	r := newRig(t)
	k := r.keeper("serv1")
	running(t, k)
	k.Win(0, 2)
	await(t, "the key is won", func() bool { return r.g.open("serv1") })
	was := k.Claims()[0].UntilNS
	leader := -1 // an election may be under way
	await(t, "a member leads", func() bool { leader = r.Leader(); return leader >= 0 })
	r.Stop(leader)
	await(t, "the key is held for longer than before the leader stopped, by two times to live", func() bool {
		return k.Claims()[0].UntilNS > was+2*int64(testTTL)
	})
	if c := k.Claims()[0]; c.Generation != 2 {
		t.Errorf("the key was lost: %+v", c)
	}
}

func TestWithoutAMajorityNothingIsWonAndWhatWasWonEnds(t *testing.T) {
	r := newRig(t)
	a, b := r.keeper("serv1"), r.keeper("serv2")
	running(t, a)
	running(t, b)
	a.Win(0, 2)
	await(t, "the key is won", func() bool { return r.g.open("serv1") })
	r.Stop(0, 1)
	b.Win(0, 3)
	await(t, "the key ends", func() bool { return !r.g.open("serv1") })
	await(t, "both say that etcd does not answer, and that this is to be looked at", func() bool {
		return strings.Contains(a.State().Error, "a majority of its members") && !a.State().Reached && !b.State().Reached
	})
	if r.g.open("serv2") {
		t.Error("a key was won without a majority")
	}
	r.Start(0, 1)
	await(t, "one of both has the key again", func() bool { return r.g.open("serv1") || r.g.open("serv2") })
}

func TestAMemberThatIsSilentCostsNothing(t *testing.T) {
	r := newRig(t)
	k := r.keeper("serv1")
	running(t, k)
	await(t, "etcd is reached", func() bool { return k.State().Lease })
	for cut := range 3 {
		r.wires["serv1"][cut].Cut(true)
		k.Win(0, 2)
		await(t, "the key is won by the two others", func() bool { return r.g.open("serv1") })
		until := k.Claims()[0].UntilNS
		await(t, "it is held by the two others", func() bool { return k.Claims()[0].UntilNS > until+int64(testTTL) })
		k.GiveUp(0)
		r.wires["serv1"][cut].Cut(false)
	}
}

func TestANodeThatIsCutOffFromEtcdEndsBeforeTheOtherBegins(t *testing.T) {
	r := newRig(t)
	a, b := r.keeper("serv1"), r.keeper("serv2")
	running(t, a)
	running(t, b)
	a.Win(0, 2)
	await(t, "the key is won", func() bool { return r.g.open("serv1") })
	for _, w := range r.wires["serv1"] {
		w.Cut(true)
	}
	b.Win(0, 3)
	await(t, "the other one wins it", func() bool { return r.g.open("serv2") }) // gates look whether the first has ended
	for _, w := range r.wires["serv1"] {
		w.Cut(false)
	}
	await(t, "the first one learns who has it", func() bool { return a.Claims()[0].Holder == "serv2" })
	if c := a.Claims()[0]; c.Generation != 0 || c.Stored != 3 {
		t.Errorf("the first one holds what the other one has: %+v", c)
	}
}

func TestAStoppedKeepersKeyExpires(t *testing.T) {
	r := newRig(t)
	a, b := r.keeper("serv1"), r.keeper("serv2")
	stop := running(t, a)
	running(t, b)
	a.Win(0, 2)
	await(t, "the key is won", func() bool { return r.g.open("serv1") })
	stop()
	b.Win(0, 3)
	await(t, "the other one wins it", func() bool { return r.g.open("serv2") })
}

func TestAReleasedKeyIsFreeAtOnce(t *testing.T) {
	r := newRig(t)
	r.g.ttl = 30 * time.Second // so that it is not won by a lease that ran out
	a, b := r.keeper("serv1"), r.keeper("serv2")
	stop := running(t, a)
	running(t, b)
	a.Win(0, 2)
	await(t, "the key is won", func() bool { return r.g.open("serv1") })
	until := time.Duration(a.Claims()[0].UntilNS)
	stop()
	if err := a.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Win(0, 3)
	await(t, "the other one wins it", func() bool { return r.g.open("serv2") })
	if since := time.Since(r.g.began); since >= until {
		t.Errorf("it was won after %v, but the first one's lease lasted until %v anyway", since, until)
	}
}

func TestAWrongEndpointIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there
	g, endpoint := newGates(t), "http://"+l.Addr().String()
	k := g.dialed("serv1", []string{endpoint}, nil)
	running(t, k)
	k.Win(0, 2)
	await(t, "the error says where, what and what to do", func() bool {
		e := k.State().Error
		return strings.Contains(e, endpoint) && strings.Contains(e, "connection refused") && strings.Contains(e, "check arbiter.etcd")
	})
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "endpoints: [https://HOST:2379") {
		t.Errorf("without endpoints: %v", err)
	}
}

func TestCertificatesAreAskedForOnBothSides(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	cert, key := ca.issue(t, dir, "member")
	c := etcdtest.Start(t, &transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: filepath.Join(dir, "ca.pem"), ClientCertAuth: true})
	g := newGates(t)
	pair := func(cert, key string) tls.Certificate {
		p, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	other := newAuthority(t, t.TempDir())
	for _, bad := range []struct {
		name string
		c    *tls.Config
		want string
	}{
		{"without a certificate", &tls.Config{RootCAs: ca.pool}, "certificate"},
		{"with members of another authority", &tls.Config{RootCAs: other.pool, Certificates: []tls.Certificate{pair(ca.issue(t, dir, "a"))}}, "unknown authority"},
		{"with another authority's certificate", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{pair(other.issue(t, t.TempDir(), "b"))}}, "check arbiter.etcd"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			k := g.dialed("bad", c.Endpoints(), bad.c)
			running(t, k)
			k.Win(0, 3)
			await(t, "it is refused, with "+bad.want, func() bool { return strings.Contains(k.State().Error, bad.want) })
			if k.State().Lease {
				t.Error("it has a lease")
			}
		})
	}
	k := g.dialed("serv1", c.Endpoints(), &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{pair(ca.issue(t, dir, "serv1"))}})
	running(t, k)
	k.Win(0, 2)
	await(t, "with the right ones the key is won", func() bool { return g.open("serv1") })
}

func TestAGenerationThatNoWordCanHoldIsRefused(t *testing.T) {
	for value, damaged := range map[string]bool{"7": false, "281474976710655": false, "281474976710656": true, "-1": true, "": true} {
		kv := &mvccpb.KeyValue{Key: []byte("/xdpha/c/files/generation"), Value: []byte(value)}
		answers := []*etcdserverpb.ResponseOp{
			{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: &etcdserverpb.RangeResponse{}}},
			{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: &etcdserverpb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv}}}},
		}
		v, err := viewOf(&clientv3.TxnResponse{Header: &etcdserverpb.ResponseHeader{Revision: 3}, Responses: answers}, 0)
		if err != nil || (v.damaged != "") != damaged || damaged && !strings.Contains(v.damaged, string(kv.Key)) {
			t.Errorf("generation %q: %q, %v", value, v.damaged, err)
		}
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *authority) issue(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "EC PRIVATE KEY", keyDER)
	return cert, key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
