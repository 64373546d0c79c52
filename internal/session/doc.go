// Package session is the stream between the server and its agents and keepers: the wire types, the client that dials,
// proves itself, reconnects and renews its certificate, and the server that tells identities apart. It decides nothing:
// what to wish and what to do with a report is its callers' business.
package session
