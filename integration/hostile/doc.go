// Package hostile holds tests of peers that mean no good: whole sessions made
// of fuzzed bytes (a client's, a coordinator's, a participant's that answers),
// and clients that stop. Only that session may suffer (W3).
package hostile
