// SPDX-License-Identifier: Apache-2.0

// Package pair is xdpha on both nodes of a lab, as a benchmark needs it: started, whole
// and with every identity at home before a fault, its events and metrics read, and whatever
// went wrong told with the daemons' output. It speaks to the daemons by the control API
// and their metrics, and must not know what is measured.
package pair
