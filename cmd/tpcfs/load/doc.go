// Package load puts many clients to work on a service at once, each with its own
// session and its own stream of writes, reads and deletes, and measures what
// they see. With Options.Check it records what every client was told of every
// file and judges whether the files behaved as single copies (linearizability;
// Herlihy and Wing, 1990), also while processes of the service are killed.
//
// The judge ([Judge], [Explain]) works on histories alone: tests that drive a
// service in ways of their own can use it too.
package load
