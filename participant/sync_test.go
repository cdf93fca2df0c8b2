package participant

import (
	"errors"
	"testing"

	"tpcfs/journal"
)

// A full journal does not hide a failed sync that the owner has not seen yet (P12).
func TestFailureIsNotHidden(t *testing.T) {
	p := &Participant{}
	p.inbox.open()
	failed := errors.New("a sync has failed")
	p.onSynced(0, failed)
	p.onSynced(7, &journal.FullError{})
	if upTo, err := p.takeSynced(); upTo != 7 || !errors.Is(err, failed) {
		t.Errorf("synced %d, %v", upTo, err)
	}
	p.onSynced(8, &journal.FullError{})
	p.onSynced(8, failed)
	if _, err := p.takeSynced(); !errors.Is(err, failed) {
		t.Errorf("after a full journal: %v", err)
	}
}
