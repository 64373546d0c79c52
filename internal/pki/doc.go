// Package pki owns the plane's certificates: its two certificate authorities, what each may issue, the identity that a
// session certificate carries, and the form of join tokens. It keeps nothing: keys are handed in and out as PEM, and the
// caller keeps them sealed.
//
// The plane CA issues the server certificates of the plane's own listeners and the session certificates of agents and
// keepers. The data CA issues the certificates of databases. Neither's certificates mean anything to the other.
package pki
