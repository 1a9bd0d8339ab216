// SPDX-License-Identifier: Apache-2.0

package line

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
	"slices"
	"strings"

	"github.com/xdpha/xdpha/pkg/config"
)

// credentials is what this node proves itself with, and whom it believes.
type credentials struct {
	own   tls.Certificate
	nodes [][]ed25519.PublicKey // by node, of each secret in force
}

// newCredentials derives the nodes' keys from the cluster's secrets. A key is a node's: what one
// node sends cannot be sent back to it.
func newCredentials(cfg *config.Config) (*credentials, error) {
	if len(cfg.Keys) == 0 {
		return nil, errors.New("derive the nodes' keys: no secret")
	}
	c := &credentials{nodes: make([][]ed25519.PublicKey, len(cfg.Nodes))}
	for i, k := range cfg.Keys {
		for node := range cfg.Nodes {
			key, err := nodeKey(k, cfg.Nodes[node].Name)
			if err != nil {
				return nil, err
			}
			c.nodes[node] = append(c.nodes[node], key.Public().(ed25519.PublicKey))
			if node != cfg.Self || i > 0 {
				continue // the first secret signs
			}
			if c.own, err = certificate(key); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func nodeKey(k config.Key, node string) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Expand(sha256.New, k.Line[:], "node "+node, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the nodes' keys: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// certificate carries the key. What else is in it nobody reads: the other end knows the key.
func certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the node's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// tls is for both ends. The handshake proves that the other one holds the private key of what it
// shows; verify, that this is that node's. No clock and no name is asked: neither says more.
func (c *credentials) tls(node int, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols, Certificates: []tls.Certificate{c.own},
		ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true, SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error { return c.verify(s, node, protocols) },
	}
}

var errStranger = errors.New("the other end does not hold the cluster's secret: copy the secret file")

func (c *credentials) verify(s tls.ConnectionState, node int, protocols []string) error {
	if !slices.Contains(protocols, s.NegotiatedProtocol) {
		return fmt.Errorf("the other end speaks %q, this one %s: install the same xdpha on all nodes", s.NegotiatedProtocol, strings.Join(protocols, ", "))
	}
	if len(s.PeerCertificates) != 1 {
		return errStranger
	}
	shown, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return errStranger
	}
	for _, key := range c.nodes[node] { // public keys: how long it takes tells nothing
		if key.Equal(shown) {
			return nil
		}
	}
	return errStranger
}
