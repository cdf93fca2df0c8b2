package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

func (a *app) journalCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "Read a journal offline: verify or dump",
		Long: `Reads the journal of a participant or a coordinator that does not run. DIR is
its data directory, or the journal's own. Nothing is changed.`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return usage("journal", "which one: verify or dump?")
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "verify DIR",
		Short: "Check every block of a journal",
		Long: `Reads every block of the journal in DIR, checks its checksum and decompresses
it. A torn end, which a crash leaves and the next start cuts, is no damage. Exit
code 1: damaged, with the file and the offset.`,
		Example: "  tpcfs journal verify tpcfs-data/participant-a\n  tpcfs journal verify -o json tpcfs-data/coordinator",
		Args:    takes(1, 1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.journalVerify(args[0]) },
	}, &cobra.Command{
		Use:   "dump DIR",
		Short: "Print the records of a journal",
		Long: `Prints every record of the journal in DIR, one a line: its number, segment and
offset, what it is, and its fields. With -o json one object a line.`,
		Example: `  tpcfs journal dump tpcfs-data/participant-a | grep PREPARE
  tpcfs journal dump -o json tpcfs-data/coordinator | jq .kind`,
		Args: takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error { return a.journalDump(args[0]) },
	})
	return cmd
}

// journalDir finds the journal in a data directory.
func journalDir(dir string) (string, error) {
	if parts, _ := filepath.Glob(filepath.Join(dir, participantDirs)); len(parts) > 0 {
		return "", fmt.Errorf("%s holds several journals: name one of them, as in %s", dir, parts[0])
	}
	if info, err := os.Stat(filepath.Join(dir, "journal")); err == nil && info.IsDir() {
		return filepath.Join(dir, "journal"), nil
	}
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	for _, pattern := range []string{"journal.id", "*.seg"} {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
			return dir, nil
		}
	}
	return "", wire.NewError(wire.CodeNotExist, dir+" holds no journal: give a coordinator's or a participant's data directory")
}

func (a *app) journalVerify(dir string) error {
	dir, err := journalDir(dir)
	if err != nil {
		return err
	}
	report, err := journal.Verify(disk.New(), dir)
	if err != nil {
		return err
	}
	if err := a.print(report, reportText(report)); err != nil {
		return err
	}
	if report.Corrupt != nil {
		return damaged(report.Corrupt)
	}
	return nil
}

func damaged(c *journal.CorruptError) error {
	return fmt.Errorf("%w; keep a copy of the directory: what comes after that place cannot be trusted", c)
}

func reportText(r journal.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: journal %s, records %d to %d", r.Dir, r.ID, r.First, r.Last)
	for _, s := range r.Segments {
		if s.First == 0 {
			fmt.Fprintf(&b, "\n  %s: spare", s.File)
			continue
		}
		fmt.Fprintf(&b, "\n  %s: records %d to %d in %d blocks, %s in %s on disk", s.File, s.First, s.Last, s.Blocks,
			wire.SizeText(uint64(s.RawBytes)), wire.SizeText(uint64(s.StoredBytes)))
	}
	for _, t := range r.Torn {
		fmt.Fprintf(&b, "\n  %s: a torn end of %d bytes at offset %d, which the next start cuts", t.File, t.Bytes, t.Offset)
	}
	if r.Corrupt == nil {
		b.WriteString("\nok")
	}
	return b.String()
}

// recordLine is a record as -o json prints it.
type recordLine struct {
	LSN     journal.LSN `json:"lsn"`
	Segment uint64      `json:"segment"`
	Offset  int64       `json:"offset"` // of its block, in bytes
	Kind    string      `json:"kind,omitempty"`
	Record  any         `json:"record,omitempty"`
	Data    []byte      `json:"data,omitempty"` // of a record that is neither a participant's nor a coordinator's
}

func (a *app) journalDump(dir string) error {
	dir, err := journalDir(dir)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(a.out)
	err = journal.Dump(disk.New(), dir, func(b journal.BlockInfo) error {
		for _, r := range b.Records {
			line := recordLine{LSN: r.LSN, Segment: b.Segment, Offset: b.Offset}
			text := line.decode(r.Data)
			if a.json() {
				if err := enc.Encode(line); err != nil {
					return err
				}
				continue
			}
			if _, err := fmt.Fprintf(a.out, "%d %d:%d %s\n", line.LSN, line.Segment, line.Offset, text); err != nil {
				return err
			}
		}
		return nil
	})
	var corrupt *journal.CorruptError
	if errors.As(err, &corrupt) {
		return damaged(corrupt)
	}
	return err
}

// decode fills in what the record says and returns it as text. A participant's
// record has its header's length where a coordinator's has a CBOR map, so no
// record is taken for the other's.
func (l *recordLine) decode(data []byte) string {
	if r, err := vote.DecodeRecord(data); err == nil {
		l.Kind, l.Record = r.Kind.String(), r
		return l.Kind + " " + voteText(r)
	}
	if r, err := commit.DecodeRecord(data); err == nil {
		l.Kind, l.Record = r.Kind.String(), r
		return l.Kind + " " + commitText(r)
	}
	l.Data = data
	return fmt.Sprintf("%d bytes: %s", len(data), hex.EncodeToString(data[:min(len(data), 64)]))
}

func voteText(r *vote.Record) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if r.Position != (wire.Position{}) {
		add("at %s", r.Position)
	}
	if r.ID != 0 {
		add("tx %s", r.ID)
	}
	if r.Tx != nil {
		add("tx %s op %s payload %d bytes", r.Tx.ID, r.Tx.Op, len(r.Tx.Payload))
		for _, b := range r.Tx.Bounds {
			add("%s", boundText(b))
		}
	}
	if r.Err != nil {
		add("because: %s", r.Err)
	}
	if r.Epoch.Number != 0 {
		add("epoch %d run %s", r.Epoch.Number, r.Epoch.Run)
	}
	if r.Config != nil {
		add("config %s of %s", r.Config.ID, strings.Join(r.Config.InSync, ","))
	}
	if r.W != (wire.Position{}) {
		add("W %s", r.W)
	}
	return strings.Join(parts, ", ")
}

func boundText(b vote.Bound) string {
	text := fmt.Sprintf("mutation %d inode %d", b.Kind, b.Ino)
	if b.Name != "" {
		text += fmt.Sprintf(" entry %d/%s", b.Dir, printable(b.Name))
	}
	if b.ToName != "" {
		text += fmt.Sprintf(" to %d/%s", b.ToDir, printable(b.ToName))
	}
	if b.Content.Stage != 0 {
		text += fmt.Sprintf(" staged %s", b.Content.Stage)
	}
	if b.Content.Size != 0 {
		text += fmt.Sprintf(" %d bytes", b.Content.Size)
	}
	for _, e := range b.Extents {
		text += fmt.Sprintf(" %d bytes at %d", e.Size, e.Offset)
		if e.Stage != 0 {
			text += fmt.Sprintf(" staged %s", e.Stage)
		}
	}
	if b.Length != 0 {
		text += fmt.Sprintf(" range of %d bytes at %d", b.Length, b.Offset)
	}
	return text
}

func commitText(r *commit.Record) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if r.Epoch.Number != 0 {
		add("epoch %d run %s", r.Epoch.Number, r.Epoch.Run)
	}
	if r.Config != nil {
		add("config %s of %s", r.Config.ID, strings.Join(r.Config.InSync, ","))
	}
	decision := func(d commit.Decision) {
		what := "aborted"
		if d.Commit {
			what = "committed"
		}
		add("tx %s prepared at %s %s", d.Tx, d.Prepared, what)
	}
	if r.Decision != nil {
		decision(*r.Decision)
	}
	for _, d := range r.Decisions {
		decision(d)
	}
	if r.W != (wire.Position{}) {
		add("W %s", r.W)
	}
	return strings.Join(parts, ", ")
}
