// Package client is the Go client of tpcfs: it writes, reads and deletes the
// files that a coordinator keeps identical on all its participants.
//
//	c, err := client.Dial(ctx, "127.0.0.1:7420", client.Options{Wait: 30 * time.Second})
//	...
//	defer c.Close()
//	_, err = c.WriteFile(ctx, "notes/today", client.Bytes(text), client.WriteOptions{})
//
// A Client connects when it needs to and again when a connection is lost. What
// was asked then is asked again under the same operation id, so it happens
// once (G5). Options.Wait bounds how long an operation waits for a service
// that is not there; an error then says whether it is known that nothing has
// happened (wire.CodeUnavailable) or not (wire.CodeUnknownOutcome, G6).
//
// A Client is safe for concurrent use; the caller closes it. Every error is a
// *wire.Error, and errors.Is works with fs.ErrNotExist and friends.
package client
