// SPDX-License-Identifier: Apache-2.0

// Package control is the daemon's API: HTTP over a unix socket that answers root
// and the daemon's own user.
//
// It owns the types that cross that socket (Status, History, Event, Command, Ping), the
// server, the client, and the hub from which events are read. It knows nothing
// of the daemon behind it: that is a Backend.
//
//	GET  /v1/status                            Status
//	GET  /v1/history                           History: how near silences came to a takeover
//	GET  /v1/events?since=SEQ&follow=1         server-sent events, each an Event
//	GET  /v1/ping?for=1s                       Ping: the round trips of that time, per link
//	POST /v1/move     {"identity","to","force"}
//	POST /v1/giveback {"identity"}             identity may be left out: all
//	POST /v1/standby  {"on"}
//	POST /v1/freeze   {"on"}
//	POST /v1/reload   {}
//
// A refusal is {"error": "..."} with a status code that says whose fault it is:
// 400 the request's, 404 no such identity or node, 409 not in this state, 503
// not now, 504 took too long.
package control
