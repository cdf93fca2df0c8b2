// Package exhaust takes every schedule of a small cluster, not random ones: the
// real commit machine and two or three real vote machines, with all
// interleavings of their steps and of the faults that a Box allows (crashes that
// lose any unsynced suffix of a journal, links that break and resume, lost
// messages, refusals, retries by a new link). States are met once: what leads to
// a state met before is not followed again.
//
// A state is a tuple of numbers. A vote machine's state is its Snapshot, and a
// step is done once from each by Restore: so every step is one from a
// checkpoint too, and every record is replayed and compared. A commit machine's
// state is a fingerprint of all that it holds, by reflection, so that no field
// is forgotten; it is made again by telling it what it was told. Journals are
// lists: durable, and after each record that a crash may lose or keep. Two
// states are one when 128 bits of SHA-256 are equal.
//
// Watched in every state: no machine panics, stops or refuses its stream; no
// transaction is committed by one and aborted by another (G1); no request takes
// effect twice (G5); what was told to have failed never commits (G6); whoever
// may answer a read has all that was acknowledged (P5); a journal's replay gives
// what its making gave. Wherever nothing but faults and clients' requests can
// happen, all must be well: nothing in doubt, W caught up, replicas alike, what
// was acknowledged is there (G2), everybody answered. No round of steps leads
// back to where it began, so every schedule comes to such an end.
//
// What is left out, because it commutes or adds nothing: a crash starts its
// process again at once (greeting it may come at any time later); a link's end
// is noticed by both sides at once (what was under way could have been lost by
// an earlier break or heard before it; what is heard later is Box.Late);
// the coordinator's lazy records are never synced (a crash may keep them all);
// a greeting's fence, sync and answer are one step, or the answer is lost; with
// no crash or break left, a participant's own steps come first. Each of the
// coordinator's inputs has its own Ready, but for a tick with a message. There is no time: no deadlines, no
// expiry. Files, disks and shells are the simulator's (package sim).
package exhaust
