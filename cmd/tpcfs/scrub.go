package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/rpc"
)

// scrubPoll is how often a scrub is asked how far it is.
const scrubPoll = 200 * time.Millisecond

func (a *app) scrubCommand() *cobra.Command {
	var f clientFlags
	var rate string
	cmd := &cobra.Command{
		Use:   "scrub [NAME]...",
		Short: "Verify and repair what the participants hold",
		Long: `Reads the contents that every participant holds, or those of these names, from its
disk and verifies their checksums; then compares the metadata of all that are in
sync at one moment. Service goes on meanwhile. A rotten block is rewritten from a
participant that has it. One whose metadata are not those of the majority is evicted
and gets everything anew from the others; where there is no majority, or two are wrong,
it is said which copies differ. A participant whose metadata are damaged ends: start it on an empty directory.

Exit code 0: all is clean; 9: something was found, and all of it repaired; 10: something
was not repaired; 8: a participant was not looked at, or not to the end. Ctrl-C stops
the scrub. The coordinator begins one by itself every --scrub-every, without who is
away, whom it looks at when that one is back; tpcfs status shows what the last one
has found.`,
		Example: `  tpcfs scrub
  tpcfs scrub b --rate 0
  tpcfs scrub -o json | jq '.members[] | {name, found, repaired}'`,
		Args: takes(0, 64),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.scrub(cmd.Context(), f, args, rate, cmd.Flags().Changed("rate"))
		},
	}
	cmd.Flags().StringVar(&rate, "rate", "", "`bytes` a second (k, m, g) that are read at each participant; 0: no limit (default: the coordinator's --scrub-rate)")
	f.add(cmd, 5*time.Second)
	return cmd
}

func (a *app) scrub(ctx context.Context, f clientFlags, names []string, rate string, limited bool) error {
	if err := f.check("scrub"); err != nil {
		return err
	}
	req := wire.ScrubRequest{Start: true, Names: names}
	if limited {
		n, err := parseSize(rate)
		if err != nil {
			return usage("scrub", "--rate %v", err)
		}
		if req.Rate = n; n == 0 {
			req.Rate = -1
		}
	}
	id, err := a.identityOf(f.tls, wire.RoleClient)
	if err != nil {
		return err
	}
	a.asked = f.coordinator
	dialCtx, cancel := ctx, func() {}
	if f.wait > 0 {
		dialCtx, cancel = context.WithTimeout(ctx, f.wait)
	}
	defer cancel()
	conn, err := rpc.DialService(dialCtx, f.coordinator, rpc.DialOptions{Identity: id, Logger: a.clientLogger()})
	if err != nil {
		return err
	}
	r, err := a.followScrub(ctx, conn, req)
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	if err := a.print(r, scrubText(&r)); err != nil {
		return err
	}
	return judgeScrub(&r)
}

// followScrub begins a scrub and shows how far it is, until it ends. Who gives up stops it.
func (a *app) followScrub(ctx context.Context, conn rpc.ServiceConn, req wire.ScrubRequest) (wire.ScrubReport, error) {
	r, err := conn.Scrub(ctx, req)
	if err != nil {
		return r, err
	}
	id, bar := r.ID, a.meter("scrub", -1)
	defer bar.done()
	tick := time.NewTicker(scrubPoll)
	defer tick.Stop()
	for r.Running {
		select {
		case <-tick.C:
		case <-ctx.Done():
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_, err := conn.Scrub(stopCtx, wire.ScrubRequest{Stop: id})
			cancel()
			return r, errors.Join(ctx.Err(), err)
		}
		if r, err = conn.Scrub(ctx, wire.ScrubRequest{}); err != nil {
			return r, err
		}
		if r.ID != id {
			return r, errors.New("the coordinator has begun another scrub since: this one's end was missed; tpcfs status shows the last one")
		}
		var done, total int64
		for _, m := range r.Members {
			done, total = done+m.Bytes, total+m.OfBytes
		}
		bar.of(done, max(done, total))
	}
	return r, nil
}

// judgeScrub is the exit code of a scrub, as an error that has been printed.
func judgeScrub(r *wire.ScrubReport) error {
	var found, repaired int64
	problem := ""
	for _, m := range r.Members {
		found, repaired = found+m.Found, repaired+m.Repaired
		if m.Problem != "" && problem == "" {
			problem = "participant " + m.Name + ": " + m.Problem
		}
	}
	switch {
	case found > repaired:
		return &exitError{exitNotRepaired, fmt.Errorf("%d of %d findings are not repaired", found-repaired, found), true}
	case problem != "":
		return &exitError{exitDegraded, errors.New(problem), true}
	case found > 0:
		return &exitError{exitRepaired, fmt.Errorf("%d findings, all repaired", found), true}
	}
	return nil
}

func scrubText(r *wire.ScrubReport) string {
	var b bytes.Buffer
	took := time.Duration(r.Ended-r.Began) * time.Millisecond
	fmt.Fprintf(&b, "%d rows of metadata compared, in %v\n", r.Rows, took.Round(10*time.Millisecond))
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PARTICIPANT\tFILES\tVERIFIED\tFOUND\tREPAIRED")
	for _, m := range r.Members {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\n", m.Name, m.Files, wire.SizeText(uint64(max(m.Bytes, 0))), m.Found, m.Repaired)
	}
	_ = w.Flush() // into memory
	for _, m := range r.Members {
		for _, n := range m.Notes {
			fmt.Fprintf(&b, "%s: %s\n", m.Name, n)
		}
		if m.Problem != "" {
			fmt.Fprintf(&b, "%s: not looked at to the end: %s\n", m.Name, m.Problem)
		}
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// scrubState is what status says of a participant's last scrub.
func scrubState(m *wire.ScrubMember) string {
	switch {
	case m == nil:
		return "-"
	case m.Ended == 0 && m.OfBytes > 0:
		return fmt.Sprintf("%d %%", min(99, 100*m.Bytes/m.OfBytes))
	case m.Ended == 0:
		return "under way"
	}
	at := time.UnixMilli(m.Ended).Format(time.DateOnly)
	switch {
	case m.Found > m.Repaired:
		return fmt.Sprintf("%s %d NOT REPAIRED", at, m.Found-m.Repaired)
	case m.Problem != "":
		return at + " not to the end"
	case m.Found > 0:
		return fmt.Sprintf("%s %d repaired", at, m.Found)
	}
	return at + " clean"
}
