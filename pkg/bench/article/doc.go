// SPDX-License-Identifier: Apache-2.0

// Package article runs the cluster of the article with today's programs in the lab (pkg/lab): xdpha
// on two nodes, with the configuration of testdata/examples/article as it is there, and
// Samba, Dovecot, Postfix, BIND, Apache, vsftpd and FreeRADIUS as its services. Each node has a mount
// namespace of its own, with /etc, /srv, /run and what those programs have below /var.
//
// Real clients use every service all the time, at the addresses of both identities where it runs
// twice, and write down what they saw. Then the nodes are broken, one fault after the other. In
// the end each service must have answered again at the same address, from the other node, with
// every file and mail that was there before; and what must run once has never run twice.
//
// The package uses the lab, the control API and the programs' command lines, and must not know how
// the datapath works.
package article
