package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

func (a *app) statusCommand() *cobra.Command {
	var f clientFlags
	var req wire.StatusRequest
	var watch time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the cluster does",
		Long: `Shows the coordinator's epoch, the participants with what each has handled and
made durable, and the transactions whose outcome is open, with what each waits
for. A participant is in sync, unreachable (and needed still), evicted (the others
go on without it), or catching up. SLOW is one to whose disk it has lately taken a
second or more to make something durable; --evict-slow of the coordinator says when the
others go on without it. Exit code 0: all participants are in sync; 8: one
is not, or something needs mending; 4: the coordinator cannot be reached or does not
serve.

--digest adds a digest of each participant's files, equal where they hold the
same; it reads all metadata, which takes seconds for a million files.

--watch shows it again every two seconds (--watch=10s: every ten) until Ctrl-C, in
place where the output is a terminal; the exit code is that of what it showed last.`,
		Example: `  tpcfs status
  tpcfs status --digest
  tpcfs status --watch
  tpcfs status -o json | jq '.members[] | {name, state, lag}'`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("watch") {
				return a.watchStatus(cmd.Context(), f, req, watch)
			}
			return a.status(cmd.Context(), f, req)
		},
	}
	cmd.Flags().BoolVar(&req.Digest, "digest", false, "compare what the participants hold")
	cmd.Flags().DurationVar(&watch, "watch", 0, "show it again and again, so often")
	cmd.Flags().Lookup("watch").NoOptDefVal = "2s"
	f.add(cmd, 5*time.Second)
	return cmd
}

// status asks once, over a link of its own: it is for seeing what is wrong,
// so it does not wait until nothing is.
func (a *app) status(ctx context.Context, f clientFlags, req wire.StatusRequest) error {
	st, err := a.statusOf(ctx, "status", f, req)
	if err != nil {
		return err
	}
	if err := a.print(st, strings.TrimSuffix(a.statusText(st, req.Digest), "\n")); err != nil {
		return err
	}
	return judge(st)
}

// statusOf is what that command is told of the cluster.
func (a *app) statusOf(ctx context.Context, command string, f clientFlags, req wire.StatusRequest) (wire.Status, error) {
	if err := f.check(command); err != nil {
		return wire.Status{}, err
	}
	id, err := a.identityOf(f.tls, wire.RoleClient)
	if err != nil {
		return wire.Status{}, err
	}
	a.asked = f.coordinator
	if f.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.wait)
		defer cancel()
	}
	return askStatus(ctx, f.coordinator, rpc.DialOptions{Identity: id, Logger: a.clientLogger()}, req)
}

// watchStatus shows the status until the user has seen enough. A coordinator
// that cannot be reached is shown, too.
func (a *app) watchStatus(ctx context.Context, f clientFlags, req wire.StatusRequest, every time.Duration) error {
	if every < 100*time.Millisecond {
		return usage("status", "--watch %s: 100ms or more", every)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if isTerminal(a.out) && !a.json() {
			fmt.Fprint(a.out, "\x1b[H\x1b[2J") // home, and all of the screen is empty
		}
		err := a.status(ctx, f, req)
		var shown *exitError
		switch {
		case ctx.Err() != nil:
			return nil
		case exitCode(err) == exitUsage:
			return err
		case err != nil && !(errors.As(err, &shown) && shown.silent):
			fmt.Fprintln(a.out, describe("status", err))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if err == nil {
				return nil
			}
			return &exitError{exitCode(err), err, true}
		}
	}
}

func askStatus(ctx context.Context, addr string, o rpc.DialOptions, req wire.StatusRequest) (wire.Status, error) {
	conn, err := rpc.DialService(ctx, addr, o)
	if err != nil {
		return wire.Status{}, err
	}
	st, err := conn.Status(ctx, req)
	return st, errors.Join(err, conn.Close())
}

const (
	inSync = "in sync"
	// soon is how old a decided transaction is before status mentions it, in milliseconds.
	soon = 1000
)

// judge is the exit code of a status, as an error that has been printed.
func judge(st wire.Status) error {
	failure := &exitError{code: exitDone, silent: true}
	for _, m := range st.Members {
		if m.State != inSync {
			failure = &exitError{exitDegraded, fmt.Errorf("participant %s is %s", m.Name, m.State), true}
		}
	}
	if len(st.Warnings) > 0 {
		failure = &exitError{exitDegraded, errors.New(st.Warnings[0]), true}
	}
	if st.Problem != "" {
		failure = &exitError{exitDegraded, errors.New(st.Problem), true}
	}
	if !st.Serving {
		failure = &exitError{exitUnavailable, errors.New("not serving"), true}
	}
	if failure.code == exitDone {
		return nil
	}
	return failure
}

func (a *app) statusText(st wire.Status, digest bool) string {
	var b bytes.Buffer
	serving := "serving"
	if !st.Serving {
		serving = "NOT SERVING"
		if len(st.WaitsFor) > 0 {
			serving += ", waits for " + strings.Join(st.WaitsFor, ", ")
		}
	}
	fmt.Fprintf(&b, "%s   epoch %d   config %s   last %s   all durable to %s   sessions %d   queued %d   locks %d",
		serving, st.Epoch.Number, st.Config, st.Last, st.W, st.Sessions, st.Queued, st.Locks)
	if st.LockWaits > 0 {
		fmt.Fprintf(&b, " (%d wait)", st.LockWaits)
	}
	fmt.Fprintln(&b)
	if st.Problem != "" {
		fmt.Fprintf(&b, "PROBLEM: %s\n", st.Problem)
	}
	for _, w := range st.Warnings {
		fmt.Fprintf(&b, "WARNING: %s\n", w)
	}
	for _, o := range []struct {
		what string
		s    wire.OpStats
	}{{"changes", st.Changes}, {"reads", st.Reads}} {
		if o.s.Done+o.s.Conflicts+o.s.Failed > 0 {
			fmt.Fprintln(&b, opText(o.what, o.s))
		}
	}
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PARTICIPANT\tSTATE\tADDRESS\tHANDLED\tDURABLE\tLAG\tIN DOUBT\tFILES\tFREE\tJOURNAL\tSCRUB"+column(digest, "DIGEST"))
	for _, m := range st.Members {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t", m.Name, stateText(m), m.Addr, m.Handled, m.Durable, m.Lag)
		if r := m.Replica; r != nil {
			fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s%s\n", r.InDoubt, r.Files, wire.SizeText(r.Free),
				wire.SizeText(uint64(r.JournalBytes)), scrubState(m.Scrub), column(digest, shortDigest(r.Digest)))
		} else {
			fmt.Fprintln(w, "-\t-\t-\t-\t"+scrubState(m.Scrub)+column(digest, "-"))
		}
	}
	_ = w.Flush() // into memory
	for _, m := range st.Members {
		if m.Error != "" {
			fmt.Fprintf(&b, "%s: %s\n", m.Name, m.Error)
		}
		if m.CatchUp != nil {
			fmt.Fprintln(&b, catchUpText(m.Name, m.CatchUp))
		}
	}
	if n := len(st.Edits); n > 0 {
		fmt.Fprintf(&b, "last change by an operator (see tpcfs members): %s\n", editText(st.Edits[n-1]))
	}
	for _, d := range st.InDoubt {
		if d.Decision != "" && d.AgeMS < soon {
			continue // its decision is on its way to the disks
		}
		fmt.Fprintln(&b, a.doubtText(d))
	}
	return b.String()
}

// stateText is a participant's state, since when it is not in sync, and how far
// it has caught up.
func stateText(m wire.MemberStatus) string {
	text := m.State
	if c := m.CatchUp; c != nil {
		if done, all := c.Work(); all > 0 {
			text += fmt.Sprintf(" %d %%", min(99, 100*done/all))
		}
	}
	if m.Since > 0 && m.State != inSync {
		text += " since " + time.UnixMilli(m.Since).Format(time.DateTime)
	}
	return text + slowText(m)
}

// slowText says that a participant is slow, or was evicted for that.
func slowText(m wire.MemberStatus) string {
	s := m.Slow
	ms := func(n int64) time.Duration {
		return (time.Duration(n) * time.Millisecond).Round(100 * time.Millisecond)
	}
	switch {
	case s == nil:
		return ""
	case s.ReturnMS > 0:
		return fmt.Sprintf(", too slow: back when fast for %v", ms(s.ReturnMS))
	case s.Evicted:
		return ", was too slow"
	}
	return fmt.Sprintf(", SLOW: up to %v", ms(s.WaitMS))
}

// catchUpText is how far a participant has caught up, and how fast.
func catchUpText(name string, c *wire.CatchUp) string {
	size := func(n int64) string { return wire.SizeText(uint64(max(n, 0))) }
	var text string
	if _, all := c.Work(); all > 0 {
		text = fmt.Sprintf("%s catches up: %d of %d files, %s of %s looked at, %s brought", name,
			min(c.FilesDone, c.Files), c.Files, size(min(c.Bytes, c.BytesTotal)), size(c.BytesTotal), size(c.Copied))
	} else {
		text = fmt.Sprintf("%s catches up with what has changed: %d files, %s brought", name, c.FilesDone, size(c.Copied))
	}
	if c.Lacking > 0 {
		text += ", " + size(c.Lacking) + " known to be needed yet"
	}
	if c.Rate > 0 {
		text += ", " + size(c.Rate) + " a second"
	}
	if left := time.Duration(c.LeftMS) * time.Millisecond; left > 0 {
		text += ", about " + max(left.Round(time.Second), time.Second).String() + " left"
	}
	return text
}

func opText(what string, s wire.OpStats) string {
	text := fmt.Sprintf("%s: %.1f a second, %d done", what, s.PerSecond, s.Done)
	if s.Conflicts > 0 {
		text += fmt.Sprintf(", %d conflicts", s.Conflicts)
	}
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d FAILED", s.Failed)
	}
	if s.Max > 0 {
		us := func(n int64) time.Duration { return (time.Duration(n) * time.Microsecond).Round(10 * time.Microsecond) }
		text += fmt.Sprintf("; in the last minute half within %v, 99%% within %v, the slowest %v", us(s.P50), us(s.P99), us(s.Max))
	}
	return text
}

// column is a last column of a table, where it is wanted.
func column(wanted bool, text string) string {
	if !wanted {
		return ""
	}
	return "\t" + text
}

func shortDigest(d string) string {
	if len(d) > 12 {
		return d[:12]
	}
	if d == "" {
		return "-"
	}
	return d
}
