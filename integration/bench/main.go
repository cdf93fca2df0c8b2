// Command bench measures tpcfs against the bare disk, or a loopback mount, of the same machine and
// prints ratios, and some figures of their own, measured in one run, with the floors and aims of DESIGN.md
// ("Figures"). It exits with 1 when a floor does not hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/integration/harness"
)

const (
	block   = 4096 // bytes of one write
	rounds  = 12   // of each measurement, taken in turns
	perTurn = 40   // commits, or bare writes, in one turn
	clients = 64
)

// row is one figure: a ratio with what it must and should be.
type row struct {
	what       string
	value      float64
	unit       string
	floor, aim float64
	most       bool // the floor is an upper bound
	detail     string
}

func (r row) holds(bound float64) bool {
	if r.most {
		return r.value <= bound
	}
	return r.value >= bound
}

func (r row) String() string {
	sign, verdict := ">=", "FLOOR MISSED"
	if r.most {
		sign = "<="
	}
	switch {
	case r.floor == 0 && r.aim == 0:
		return fmt.Sprintf("%-66s %6.2f %s   to compare with   (%s)", r.what, r.value, r.unit, r.detail)
	case r.holds(r.aim):
		verdict = "aim reached"
	case r.holds(r.floor):
		verdict = "floor holds"
	}
	return fmt.Sprintf("%-66s %6.2f %s   floor %s %g, aim %g: %s   (%s)", r.what, r.value, r.unit, sign, r.floor, r.aim, verdict, r.detail)
}

// options are how much is measured.
type options struct {
	only  string
	large int64 // bytes
	files int
	disks []string // directories, one for each participant; nil: they share the disk that all is measured on
}

// newCluster makes a cluster of three participants.
func (o *options) newCluster(bin string) (*harness.Cluster, error) {
	c, err := harness.NewCluster(bin, 3)
	if err != nil {
		return nil, err
	}
	for i, disk := range o.disks {
		data, err := os.MkdirTemp(disk, "data-")
		if err == nil {
			err = os.Symlink(data, c.DataDir(c.Names[i]))
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func main() {
	bin := flag.String("tpcfs", "./bin/tpcfs", "the binary")
	dir := flag.String("dir", "", "where the data lie while measuring (default: the directory for temporary files)")
	var o options
	flag.StringVar(&o.only, "only", "", "measure only these, with commas between: "+strings.Join(names(), ", "))
	large := flag.Int64("large", 10, "GiB of the file whose way is watched for memory")
	flag.IntVar(&o.files, "files", 1_000_000, "how many files are made")
	hop := flag.String("hop", "", "be a hop of the bare relay on this socket (for bench itself)")
	next := flag.String("next", "", "... that passes on to this one")
	loopback := flag.String("loopback", "", "mount this directory at the argument (likewise)")
	through := flag.Bool("through", false, "... and have contents go through its process")
	sync := flag.Duration("sync", 0, "measure on disks, one for each participant, whose syncs take at least so long (needs root)")
	maker := flag.Int("make", 0, "make so many small files in the argument, a directory (likewise)")
	fsync := flag.Bool("fsync", false, "... with an fsync of each")
	flag.Parse()
	o.large = *large * gib
	for _, helper := range []struct {
		is  bool
		run func() error
	}{
		{*hop != "", func() error { return serveHop(*hop, *next) }},
		{*loopback != "", func() error { return serveLoopback(*loopback, flag.Arg(0), *through, *sync) }},
		{*maker > 0, func() error { return serveMaker(flag.Arg(0), *maker, *fsync) }},
	} {
		if !helper.is {
			continue
		}
		if err := helper.run(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ok, err := measureOn(ctx, *bin, *dir, *sync, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// parts are what can be measured by itself.
var parts = []struct {
	name string
	run  func(ctx context.Context, bin, dir string, o options) ([]row, error)
}{
	{"one", inOneProcess}, {"processes", inProcesses}, {"contents", largeContents},
	{"mount", mountWrites}, {"streams", mountStreams}, {"small", mountSmall}, {"unchanged", mountUnchanged}, {"tree", mountTree}, {"together", mountsTogether},
	{"files", manyFiles}, {"restart", restart},
	{"stalls", stalls}, {"catchup", catchUps}, {"scrub", scrubSpeed},
}

func names() (list []string) {
	for _, p := range parts {
		list = append(list, p.name)
	}
	return list
}

// measureOn measures on disks of slow syncs, one for each participant and one for
// all else, or on the one that is there.
func measureOn(ctx context.Context, bin, dir string, sync time.Duration, o options) (ok bool, err error) {
	if sync == 0 {
		return measure(ctx, bin, dir, o)
	}
	work, err := os.MkdirTemp(dir, "tpcfs-disk-")
	if err != nil {
		return false, err
	}
	d, err := newSlowDisks(ctx, work, sync, 4)
	if err != nil {
		return false, err
	}
	o.disks = d.mounts[1:]
	ok, err = measure(ctx, bin, d.mounts[0], o)
	if err = errors.Join(err, d.close()); err != nil {
		return false, err // what is left of it may hold a mount
	}
	return ok, os.RemoveAll(work)
}

func measure(ctx context.Context, bin, dir string, o options) (ok bool, err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return false, err
	}
	if dir != "" {
		if err := os.Setenv("TMPDIR", dir); err != nil {
			return false, err
		}
	}
	work, err := os.MkdirTemp("", "tpcfs-bench-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	ok = true
	only := strings.Split(o.only, ",")
	for _, name := range only {
		if name != "" && !slices.Contains(names(), name) {
			return false, fmt.Errorf("-only %s: there is %s", name, strings.Join(names(), ", "))
		}
	}
	for _, part := range parts {
		if o.only != "" && !slices.Contains(only, part.name) {
			continue
		}
		rows, err := part.run(ctx, bin, work, o)
		if err != nil {
			return false, err
		}
		for _, r := range rows {
			fmt.Println(r)
			ok = ok && r.holds(r.floor)
		}
	}
	return ok, nil
}
