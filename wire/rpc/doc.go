// Package rpc carries the contracts of package wire over sockets: a server for
// a wire.Service or a wire.Replica, and stubs that implement the same two
// interfaces over a link. Nothing is retried here; wire/client does that.
//
// A link is two connections, paired by a nonce (W1): control for the
// transaction stream and small calls, bulk for contents. Each carries a yamux
// session. A stream serves one call at a time and is kept for the next one:
// opening and closing one would cost four frames more than the call itself.
//
// The caller closes what it dialled; Close returns when its goroutines are
// gone. Every error of a stub is a *wire.Error; Lost is set when the link
// ended before the answer.
package rpc
