// Package store holds a participant's files: metadata rows in a key-value
// store with two in-memory tables above it, and contents larger than 8 KiB as
// plain files in objects/ (DESIGN.md section 7, S1-S7).
//
// Applying a decision touches memory and the page cache only. A checkpoint
// makes a consistent prefix durable in the background; what came after it is
// redone from the participant's journal.
package store
