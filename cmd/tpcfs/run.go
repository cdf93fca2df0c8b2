package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

const (
	// runLine is the longest line that run reads, in bytes.
	runLine = 1 << 20
	// runShow is how much of a file, in bytes, run prints; more needs a LOCAL.
	runShow = 1 << 20
	// runParallel is the greatest --parallel: what is read is held until its turn.
	runParallel = 64
)

type runFlags struct {
	clientFlags
	keepGoing bool
	parallel  int
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [FILE|-]",
		Short: "Carry out a stream of requests, one a line",
		Long: `Carries out the requests in FILE, or on standard input (- or nothing), one a
line, each after the one before it, and prints each outcome as it comes:

  write NAME LOCAL|"text"   a whole file: LOCAL's contents, or a text in quotes
  append NAME LOCAL|"text"  at the file's end, wherever that is by then
  read NAME [LOCAL]         into LOCAL; without it, printed (up to 1 MiB)
  delete NAME
  mkdir NAME, rmdir NAME, rename FROM TO
  link TARGET NAME, symlink TARGET NAME
  list [NAME], stat NAME

Words are quoted as in a shell: "...", '...', $'line\n' and \ before a character;
nothing is expanded. # begins a comment. What begins with a quotation mark is a
text, so a LOCAL with a blank in it is written as my\ file.

A FILE that has a line that cannot be understood is refused as a whole, before
anything is done. On standard input what comes before such a line is done, and
the line is not.

The first request that fails ends the run, unless --keep-going is given. With
--parallel others are under way meanwhile: requests about the same name, or
about a directory and what is in it, still happen in the order of their lines,
and so are all outcomes printed.`,
		Example: `  tpcfs run requests.txt
  printf 'mkdir in\nwrite in/a "hello"\nread in/a\n' | tpcfs run
  tpcfs run --keep-going --parallel 16 -o json many.txt | jq -c 'select(.error)'`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRequests(cmd.Context(), f, strings.Join(args, ""))
		},
	}
	f.add(cmd, defaultWait)
	cmd.Flags().BoolVar(&f.keepGoing, "keep-going", false, "go on after a request that failed")
	cmd.Flags().IntVar(&f.parallel, "parallel", 1, "how many requests are under way at once")
	return cmd
}

func (a *app) runRequests(ctx context.Context, f runFlags, file string) error {
	if f.parallel < 1 || f.parallel > runParallel {
		return usage("run", "--parallel %d: want 1 to %d", f.parallel, runParallel)
	}
	in := a.in
	if file != "" && file != "-" {
		src, err := a.openSource(file)
		if err != nil {
			return err
		}
		defer src.close()
		if err := understand(file, src); err != nil {
			return err
		}
		r, err := src.content.Open()
		if err != nil {
			return err
		}
		defer r.Close() // was only read
		in = r
	}
	c, err := a.connect(ctx, "run", f.clientFlags)
	if err != nil {
		return err
	}
	defer closeClient(c)
	r := &runner{app: a, c: c, runFlags: f}
	return r.run(ctx, in)
}

// understand parses all lines of a file.
func understand(name string, src *source) error {
	r, err := src.content.Open()
	if err != nil {
		return err
	}
	defer r.Close() // was only read
	lines := newLines(r)
	for {
		if _, err := lines.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			var use *usageError
			if errors.As(err, &use) {
				return usage("run", "%s: %v; nothing was done", name, use.err)
			}
			return err
		}
	}
}

// lines reads requests.
type lines struct {
	scan   *bufio.Scanner
	number int
}

func newLines(r io.Reader) *lines {
	l := &lines{scan: bufio.NewScanner(r)}
	l.scan.Buffer(make([]byte, 0, 64<<10), runLine)
	return l
}

// next returns the next request; io.EOF after the last one.
func (l *lines) next() (*request, error) {
	for l.scan.Scan() {
		l.number++
		r, err := parseRequest(l.number, l.scan.Text())
		if err != nil {
			return nil, usage("run", "line %d: %v", l.number, err)
		}
		if r != nil {
			return r, nil
		}
	}
	switch err := l.scan.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, usage("run", "line %d has more than %d bytes", l.number+1, runLine)
	case err != nil:
		return nil, fmt.Errorf("reading the requests: %w", err)
	}
	return nil, io.EOF
}

// outcome is what became of a request, as -o json prints it.
type outcome struct {
	Line     int        `json:"line"`
	Request  string     `json:"request"`
	Name     string     `json:"name,omitempty"`
	Done     bool       `json:"done"`
	Size     int64      `json:"size,omitempty"`     // bytes written or read
	Created  bool       `json:"created,omitempty"`  // the file is new
	Contents *string    `json:"contents,omitempty"` // read without LOCAL
	Bytes    []byte     `json:"contents_bytes,omitempty"`
	Stat     *fileInfo  `json:"stat,omitempty"`
	List     []fileInfo `json:"list,omitempty"`
	Error    string     `json:"error,omitempty"`
	Code     string     `json:"code,omitempty"`
	Exit     int        `json:"exit,omitempty"`

	data []byte // what was read
	err  error
}

// runner carries out requests.
type runner struct {
	*app
	runFlags
	c *client.Client

	// Of the printer alone, until it has ended.
	count, failed int
	first         *outcome // the first failure, by line
	printing      error
}

// pending is a request under way, or one that has ended and waits to be printed.
type pending struct {
	touches []string
	done    chan struct{}
	out     outcome // after done
}

// run reads, starts and waits. The printer takes the outcomes in the order of lines.
func (r *runner) run(ctx context.Context, in io.Reader) error {
	stop, halt := context.WithCancel(ctx) // ends when no more requests shall begin
	defer halt()
	queue := make(chan *pending, r.parallel) // bounds what waits to be printed
	var printer, workers sync.WaitGroup
	printer.Go(func() { r.printAll(queue, halt) })
	requests, ended := readAhead(stop, in)
	var open []*pending
	var failed bool
	var parsing error
	for !failed || r.keepGoing {
		req, ok := nextRequest(stop, requests)
		if !ok {
			break
		}
		p := &pending{touches: req.touches(), done: make(chan struct{})}
		if open, failed = waitFor(open, p.touches, r.parallel); failed && !r.keepGoing || stop.Err() != nil {
			break
		}
		open = append(open, p)
		queue <- p
		workers.Go(func() {
			defer close(p.done)
			p.out = r.do(ctx, req)
		})
	}
	select {
	case parsing = <-ended:
	default: // it was not read to its end
	}
	halt()
	workers.Wait()
	close(queue)
	printer.Wait()
	return r.sum(ctx, parsing)
}

// nextRequest waits for a request; false when there is none or stop has ended.
func nextRequest(stop context.Context, requests <-chan *request) (*request, bool) {
	select {
	case req, ok := <-requests:
		return req, ok
	case <-stop.Done():
		return nil, false
	}
}

// readAhead reads the requests one by one. A read of standard input cannot be
// ended: when stop ends first, the goroutine is left to end with the process.
func readAhead(stop context.Context, in io.Reader) (<-chan *request, <-chan error) {
	requests, ended := make(chan *request), make(chan error, 1)
	go func() {
		defer close(requests)
		for lines := newLines(in); ; {
			req, err := lines.next()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-stop.Done():
				return
			}
		}
	}()
	return requests, ended
}

// waitFor waits until none of those under way is related to a request, and there
// are fewer than limit of them. It returns those that still are under way, and
// whether one of the others has failed.
func waitFor(open []*pending, touches []string, limit int) (left []*pending, failed bool) {
	for i := 0; i < len(open); {
		p := open[i]
		select {
		case <-p.done:
		default:
			if !related(p.touches, touches) && len(open) < limit {
				i++
				continue
			}
			<-p.done
		}
		failed = failed || p.out.err != nil
		open = append(open[:i], open[i+1:]...)
	}
	return open, failed
}

// printAll prints outcomes in their order and notes the first failure.
func (r *runner) printAll(queue <-chan *pending, halt func()) {
	for p := range queue {
		<-p.done
		o := &p.out
		r.count++
		if o.err != nil {
			r.failed++
			if r.first == nil {
				r.first = o
			}
			if !r.keepGoing {
				halt()
			}
		}
		if r.printing == nil {
			if r.printing = r.printOutcome(o); r.printing != nil {
				halt()
			}
		}
	}
}

// sum is the error of the whole run.
func (r *runner) sum(ctx context.Context, parsing error) error {
	switch {
	case r.printing != nil:
		return r.printing
	case parsing != nil:
		return parsing
	case r.first != nil && r.failed > 1:
		return &exitError{code: r.first.Exit, err: fmt.Errorf("%d of %d requests failed, the first one on line %d: %s", r.failed, r.count, r.first.Line, r.first.words())}
	case r.first != nil:
		return &exitError{code: r.first.Exit, err: fmt.Errorf("line %d: %s", r.first.Line, r.first.words())}
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return nil
}

// words is what went wrong.
func (o *outcome) words() string { return strings.TrimPrefix(o.Error, "tpcfs: ") }

func (r *runner) printOutcome(o *outcome) error {
	if r.json() {
		return r.print(o, "")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d: ", o.Line)
	what := join(" ", o.Request, r.show(o.Name))
	switch {
	case o.err != nil:
		fmt.Fprintf(&b, "failed: %s", o.words())
	case o.Request == "write" || o.Request == "append" || o.Request == "read":
		fmt.Fprintf(&b, "%s: %d bytes", what, o.Size)
	case o.Request == "stat":
		fmt.Fprintf(&b, "%s: %s, %d bytes, mode %s, version %s", what, o.Stat.Type, o.Stat.Size, o.Stat.Mode, o.Stat.Version)
	case o.Request == "list":
		fmt.Fprintf(&b, "%s: %d names", what, len(o.List))
		for _, e := range o.List {
			fmt.Fprintf(&b, "\n%s", r.show(e.Name))
		}
	default:
		fmt.Fprintf(&b, "%s: done", what)
	}
	b.WriteByte('\n')
	b.Write(o.data)
	if len(o.data) > 0 && o.data[len(o.data)-1] != '\n' {
		b.WriteByte('\n')
	}
	_, err := io.WriteString(r.out, b.String())
	return err
}

// do carries out one request.
func (r *runner) do(ctx context.Context, req *request) outcome {
	o := outcome{Line: req.line, Request: req.verb, Name: req.arg(0)}
	name := o.Name
	var err error
	switch req.verb {
	case "write":
		err = r.write(ctx, req, &o, r.c.WriteFile)
	case "append":
		err = r.write(ctx, req, &o, r.c.Append)
	case "read":
		err = r.read(ctx, req, &o)
	case "delete":
		err = r.c.DeleteFile(ctx, name)
	case "mkdir":
		err = r.c.Mkdir(ctx, name, 0o755)
	case "rmdir":
		err = r.c.Rmdir(ctx, name)
	case "rename":
		err = r.c.Rename(ctx, name, req.arg(1))
	case "link":
		o.Name = req.arg(1)
		err = r.c.Link(ctx, name, o.Name)
	case "symlink":
		o.Name = req.arg(1)
		err = r.c.Symlink(ctx, name, o.Name)
	case "stat":
		var attr wire.Attr
		if attr, err = r.c.Lstat(ctx, name); err == nil {
			info := newFileInfo(name, attr)
			o.Stat = &info
		}
	case "list":
		var entries []wire.DirEntry
		entries, err = r.c.List(ctx, name)
		for _, e := range entries {
			o.List = append(o.List, newFileInfo(e.Name, e.Attr))
		}
	default:
		panic("a request that is parsed and not carried out: " + req.verb)
	}
	if o.err = about(o.Name, err); err != nil {
		o.Error, o.Code, o.Exit = describe(req.verb, o.err), "", exitCode(o.err)
		var e *wire.Error
		if errors.As(err, &e) {
			o.Code = e.Code.String()
		}
		return o
	}
	o.Done = true
	return o
}

// writer is one of the client's ways to write contents.
type writer func(ctx context.Context, name string, content client.Content, o client.WriteOptions) (wire.Result, error)

func (r *runner) write(ctx context.Context, req *request, o *outcome, write writer) error {
	w := client.WriteOptions{Mode: 0o644}
	w.UID, w.GID = owner()
	content := client.Bytes([]byte(req.arg(1)))
	if !req.args[1].quoted {
		if req.arg(1) == "-" {
			return errors.New("requests cannot take contents from standard input: name a file, or write ./- for one of that name")
		}
		src, err := r.openSource(req.arg(1))
		if err != nil {
			return err
		}
		defer src.close()
		content, w.Mode = src.content, src.mode
	}
	result, err := write(ctx, o.Name, content, w)
	o.Size, o.Created = content.Size(), result.Created
	return err
}

func (r *runner) read(ctx context.Context, req *request, o *outcome) error {
	if local := req.arg(1); local != "" && local != "-" {
		dst, err := openTarget(local, path.Base("/"+o.Name))
		if err != nil {
			return err
		}
		attr, err := r.c.ReadTo(ctx, o.Name, dst, client.ReadOptions{})
		if err != nil {
			return errors.Join(err, dst.discard())
		}
		o.Size = attr.Size
		return dst.keep(attr.Mode)
	}
	var b shown
	if _, err := r.c.ReadTo(ctx, o.Name, &b, client.ReadOptions{}); err != nil {
		return err
	}
	o.Size = int64(b.Len())
	switch {
	case !r.json():
		o.data = b.Bytes()
	case utf8.Valid(b.Bytes()):
		text := b.String()
		o.Contents = &text
	default:
		o.Bytes = b.Bytes()
	}
	return nil
}

// shown is contents that shall be printed.
type shown struct{ bytes.Buffer }

func (s *shown) Write(b []byte) (int, error) {
	if s.Len()+len(b) > runShow {
		return 0, fmt.Errorf("it has more than %d bytes: say into which local file", runShow)
	}
	return s.Buffer.Write(b)
}

// Restart implements client.Restarter.
func (s *shown) Restart() error { s.Reset(); return nil }
