// SPDX-License-Identifier: Apache-2.0

package sim

// network is the article's: two switches with a trunk, a cable between the nodes, or a switch among
// many. A node's lan
// NIC is on its own switch and its spare one on the other; listed hosts are on either.
type network struct {
	cable, trunk bool
	nic          [maxNodes][nics]bool        // by node: lan, spare
	host         [hosts]bool                 // they answer
	oneWay       [maxNodes][links]bool       // by receiver: frames on that link do not arrive
	apart        [maxNodes][maxNodes]int     // by receiver and sender: so many faults keep all frames away
	loss         float64                     // of everything
	late         int64                       // most that a frame is late, beside the usual
	twice        bool                        // frames may arrive two times
	deaf         [maxNodes][nics][hosts]bool // by node: that host does not answer there
}

// hostAt is the switch of each host.
var hostAt = [hosts]int{0, 1, 0}

func soundNetwork() network {
	n := network{
		cable: true, trunk: true,
		host: [hosts]bool{true, true, true},
	}
	for i := range n.nic {
		n.nic[i] = [nics]bool{true, true}
	}
	return n
}

// joins reports whether a link carries frames of one node to another.
func (n *network) joins(link, from, to int) bool {
	if n.oneWay[to][link] || n.apart[to][from] > 0 {
		return false
	}
	if link == 0 {
		return n.cable
	}
	return n.trunk && n.nic[from][link-1] && n.nic[to][link-1]
}

// asks reports whether a node's NIC reaches a host.
func (n *network) asks(node, nic, host int) bool {
	at := (node + nic) % 2 // lan on the own switch, spare on the other
	return n.nic[node][nic] && n.host[host] && !n.deaf[node][nic][host] && (at == hostAt[host] || n.trunk)
}

// travel is how long a frame takes; 0: it is lost.
func (w *world) travel() int64 {
	if !w.calm && w.r.Float64() < w.net.loss {
		return 0
	}
	d := w.rnd(5*us, 40*us)
	if !w.calm && w.net.late > 0 && w.r.IntN(4) == 0 {
		d += w.rnd(0, w.net.late)
	}
	return d
}

func (w *world) send(from *node, f frame) {
	to := w.nodes[f.to]
	if !w.net.joins(f.link, from.self, to.self) {
		return
	}
	copies := 1
	if !w.calm && w.net.twice && w.r.IntN(8) == 0 {
		copies = 2
	}
	for range copies {
		if d := w.travel(); d > 0 {
			to.later(d, func() { to.receive(f) })
		}
	}
}

// ask sends a round of questions to the listed hosts, by both NICs.
func (w *world) ask(n *node) {
	for h := range hosts {
		for nic := range nics {
			if d := w.travel(); w.net.asks(n.self, nic, h) && d > 0 {
				n.later(d+w.rnd(5*us, 60*us), func() { n.k.reachHeard(h, nic, n.clock()) })
			}
		}
	}
}
