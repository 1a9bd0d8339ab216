// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/xdpha/xdpha/pkg/config"
)

// protocol is what both ends speak after the handshake; another version has another name.
const protocol = "xdpha-mirror/1"

// credentials is what this node proves itself with, and whom it believes.
type credentials struct {
	own  tls.Certificate
	peer []ed25519.PublicKey // of each secret in force
}

// newCredentials derives the nodes' keys from the cluster's secrets. A key is a node's: what one
// node sends cannot be sent back to it.
func newCredentials(cfg *config.Config) (*credentials, error) {
	if len(cfg.Keys) == 0 {
		return nil, errors.New("derive the mirrors' keys: no secret")
	}
	c := &credentials{}
	for i, k := range cfg.Keys {
		own, err := nodeKey(k, cfg.Nodes[cfg.Self].Name)
		if err != nil {
			return nil, err
		}
		peer, err := nodeKey(k, cfg.Nodes[cfg.Peer()].Name)
		if err != nil {
			return nil, err
		}
		c.peer = append(c.peer, peer.Public().(ed25519.PublicKey))
		if i > 0 {
			continue // the first one signs
		}
		if c.own, err = certificate(own); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func nodeKey(k config.Key, node string) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Expand(sha256.New, k.Mirror[:], "node "+node, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the mirrors' keys: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// certificate carries the key. What else is in it nobody reads: the other end knows the key.
func certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the mirrors' certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// tls is for both ends. The handshake proves that the other one holds the private key of what it
// shows; verify, that this is the peer's. No clock and no name is asked: neither says more.
func (c *credentials) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, Certificates: []tls.Certificate{c.own},
		ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true, VerifyConnection: c.verify,
		SessionTicketsDisabled: true,
	}
}

var errStranger = errors.New("the other end does not hold the cluster's secret: copy the secret file")

func (c *credentials) verify(s tls.ConnectionState) error {
	if s.NegotiatedProtocol != protocol {
		return fmt.Errorf("the other end speaks %q, this one %s: install the same xdpha on both nodes", s.NegotiatedProtocol, protocol)
	}
	if len(s.PeerCertificates) != 1 {
		return errStranger
	}
	shown, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return errStranger
	}
	for _, key := range c.peer { // public keys: how long it takes tells nothing
		if key.Equal(shown) {
			return nil
		}
	}
	return errStranger
}
