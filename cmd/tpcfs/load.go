package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"tpcfs/cmd/tpcfs/load"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

type loadFlags struct {
	clientFlags
	clients, names int
	ops            int64
	duration       time.Duration
	mix, size      string
	seed           uint64
	check, keep    bool
	dir            string
}

func (a *app) loadCommand() *cobra.Command {
	var f loadFlags
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Put many clients to work, measure, and check the answers",
		Long: `Has many clients write, read and delete files, each in a session of its own, one
operation after the other, and prints throughput, errors by kind, and how long
the operations took. They work in a new directory, which is deleted at the end.
Which operations are chosen follows from --seed.

With --check everything the clients are told is recorded and judged: the files
must behave as if there were one copy of each (linearizability), every byte read
must be what some client wrote. What is found to be wrong ends the load and is
printed as the few operations that show it. It may be used while processes of
the service are killed and started again: then some operations fail, as
unavailable, say, which is counted and is nothing wrong.`,
		Example: `  tpcfs load
  tpcfs load --clients 64 --duration 1m --mix 20/80/0 --size 1k-64k
  tpcfs load --check --names 8 --duration 5m --wait 2s
  tpcfs load --ops 10000 --seed 7 -o json | jq .write.p99_ms`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.load(cmd.Context(), f) },
	}
	f.add(cmd, defaultWait)
	cmd.Flags().IntVar(&f.clients, "clients", 8, "how many clients work at once")
	cmd.Flags().DurationVar(&f.duration, "duration", 0, "how long they begin new operations (default 10s, if there is no --ops)")
	cmd.Flags().Int64Var(&f.ops, "ops", 0, "how many operations all clients together do; 0 is as many as they can in --duration")
	cmd.Flags().StringVar(&f.mix, "mix", "40/50/10", "weights of `writes/reads/deletes`")
	cmd.Flags().IntVar(&f.names, "names", 64, "how many files they choose from")
	cmd.Flags().StringVar(&f.size, "size", "4k", "`bytes` of a file's contents: 512, 4k, 1m, or a range as 1k-64k")
	cmd.Flags().Uint64Var(&f.seed, "seed", 0, "what the choices follow from (default: random, and printed)")
	cmd.Flags().BoolVar(&f.check, "check", false, "record the history and judge it linearizable")
	cmd.Flags().StringVar(&f.dir, "dir", "", "the new `directory` to work in (default load-XXXXXXXX)")
	cmd.Flags().BoolVar(&f.keep, "keep", false, "leave the directory there at the end")
	return cmd
}

// options are what the flags ask for, without clients.
func (f *loadFlags) options() (load.Options, error) {
	o := load.Options{Ops: f.ops, Duration: f.duration, Names: f.names, Seed: f.seed, Check: f.check, Dir: f.dir}
	var err error
	switch {
	case f.clients < 1 || f.clients > 10_000:
		return o, usage("load", "--clients %d: want 1 to 10000", f.clients)
	case f.ops < 0:
		return o, usage("load", "--ops %d is negative", f.ops)
	case f.duration < 0:
		return o, usage("load", "--duration %s is negative", f.duration)
	case f.names < 1 || f.names > 1_000_000:
		return o, usage("load", "--names %d: want 1 to 1000000", f.names)
	}
	if o.Mix, err = parseMix(f.mix); err != nil {
		return o, usage("load", "--mix: %v", err)
	}
	if o.MinSize, o.MaxSize, err = parseSizes(f.size); err != nil {
		return o, usage("load", "--size: %v", err)
	}
	if o.MaxSize > load.MaxSize {
		return o, usage("load", "--size %s: at most %dm", f.size, load.MaxSize>>20)
	}
	if f.check && o.MinSize < load.MinChecked {
		return o, usage("load", "--size %s: at least %d with --check, to tell whose they are", f.size, load.MinChecked)
	}
	if o.Ops == 0 && o.Duration == 0 {
		o.Duration = 10 * time.Second
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1<<31) + 1
	}
	if o.Dir == "" {
		o.Dir = fmt.Sprintf("load-%08x", rand.Uint32())
	}
	o.UID, o.GID = owner()
	return o, nil
}

// parseMix reads W/R/D.
func parseMix(s string) (mix [3]int, err error) {
	parts := strings.Split(s, "/")
	sum := 0
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > 1_000_000 || len(parts) != len(mix) {
			return mix, fmt.Errorf("%q is no list of three weights, as in 40/50/10", s)
		}
		mix[i] = n
		sum += n
	}
	if sum == 0 {
		return mix, fmt.Errorf("%q asks for nothing", s)
	}
	return mix, nil
}

// parseSizes reads a number of bytes, or two with a dash between them.
func parseSizes(s string) (least, most int64, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	least, err = parseSize(from)
	if err == nil {
		most, err = parseSize(to)
	}
	if err == nil && least > most {
		err = fmt.Errorf("%q: the lesser one comes first", s)
	}
	return least, most, err
}

// parseSize reads a number of bytes with k, m or g (binary) behind it, or none.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	for i, unit := range []string{"k", "m", "g"} {
		if before, ok := strings.CutSuffix(strings.ToLower(s), unit); ok {
			digits, shift = before, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is no number of bytes, as 512, 4k or 1m", s)
	}
	return n << shift, nil
}

func (a *app) load(ctx context.Context, f loadFlags) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	master, err := a.connect(ctx, "load", f.clientFlags)
	if err != nil {
		return err
	}
	defer closeClient(master)
	if err := about(o.Dir, master.Mkdir(ctx, o.Dir, 0o755)); err != nil {
		return err
	}
	clients, err := a.openClients(ctx, f)
	defer func() {
		for _, c := range clients {
			closeClient(c)
		}
	}()
	if err == nil {
		for _, c := range clients {
			o.Clients = append(o.Clients, c)
		}
		err = a.runLoad(ctx, o)
	}
	if f.keep {
		return err
	}
	if left := a.clearLoad(ctx, master, o.Dir); left != nil {
		fmt.Fprintf(a.err, "tpcfs: load: %s is left: %v\n", o.Dir, left)
	}
	return err
}

// openClients opens a session for each client. What was opened is returned also
// with an error.
func (a *app) openClients(ctx context.Context, f loadFlags) ([]*client.Client, error) {
	id, err := a.identityOf(f.tls, wire.RoleClient)
	if err != nil {
		return nil, err
	}
	var clients []*client.Client
	for range f.clients {
		c, err := client.Dial(ctx, f.coordinator, client.Options{Wait: f.wait, Identity: id})
		if err != nil {
			return clients, err
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// runLoad runs a load and prints what came of it.
func (a *app) runLoad(ctx context.Context, o load.Options) error {
	if isTerminal(a.err) && !a.json() {
		var before load.Snapshot
		o.Tick = func(now load.Snapshot) {
			seconds := max((now.Elapsed - before.Elapsed).Seconds(), 1e-3)
			per := func(k load.Kind) float64 { return float64(now.Ops[k]-before.Ops[k]) / seconds }
			fmt.Fprintf(a.err, "%4.0f s  %7.0f writes/s  %7.0f reads/s  %7.0f deletes/s  %d not done\n", now.Elapsed.Seconds(),
				per(load.Write), per(load.Read), per(load.Delete), now.Failed-before.Failed)
			before = now
		}
	}
	report, err := load.Run(ctx, o)
	if err != nil {
		return usage("load", "%v", err)
	}
	text := report.String()
	if report.Check != nil {
		for _, fault := range report.Check.Faults {
			text += "\n" + fault.Error()
		}
	}
	if err := a.print(newLoadResult(&report, o.Dir), text); err != nil {
		return err
	}
	return judgeLoad(ctx, &report)
}

// loadResult is what -o json prints.
type loadResult struct {
	*load.Report
	Dir          string   `json:"dir"`
	Linearizable *bool    `json:"linearizable,omitempty"` // with --check
	Faults       []string `json:"faults,omitempty"`
}

func newLoadResult(r *load.Report, dir string) loadResult {
	out := loadResult{Report: r, Dir: dir}
	if r.Check != nil {
		right := len(r.Check.Faults) == 0
		out.Linearizable = &right
		for _, fault := range r.Check.Faults {
			out.Faults = append(out.Faults, fault.Error())
		}
	}
	return out
}

// judgeLoad is the error of a load that did not go as it should.
func judgeLoad(ctx context.Context, r *load.Report) error {
	switch {
	case r.Check != nil && len(r.Check.Faults) > 0:
		fault, _, _ := strings.Cut(r.Check.Faults[0].Error(), "\n")
		return fmt.Errorf("not linearizable: %s", fault)
	case ctx.Err() != nil:
		return ctx.Err()
	case r.Unexpected != nil:
		return r.Unexpected
	case r.Answered() == 0 && r.Last != nil:
		return r.Last
	case r.Check != nil && r.Check.Undecided > 0:
		return fmt.Errorf("%d pieces of the history could not be judged in time: use fewer clients, or more names", r.Check.Undecided)
	}
	return nil
}

// clearTime is how long the files of a load that was interrupted may take to go.
const clearTime = 10 * time.Second

// clearLoad deletes the directory of a load and what is in it. An operation of
// unknown outcome may still be on its way, so it looks again.
func (a *app) clearLoad(ctx context.Context, c *client.Client, dir string) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), clearTime)
		defer cancel()
	}
	for {
		if err := deleteAll(ctx, c, dir); err != nil {
			return err
		}
		switch err := c.Rmdir(ctx, dir); wire.CodeOf(err) {
		case wire.CodeNotEmpty, wire.CodeConflict:
		default:
			return err
		}
	}
}

// deleteAll deletes the files in a directory.
func deleteAll(ctx context.Context, c *client.Client, dir string) error {
	entries, err := c.List(ctx, dir)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(16)
	for _, e := range entries {
		group.Go(func() error {
			switch err := c.DeleteFile(ctx, dir+"/"+e.Name); wire.CodeOf(err) {
			case wire.CodeNotExist, wire.CodeConflict: // gone, or soon
				return nil
			default:
				return err
			}
		})
	}
	return group.Wait()
}
