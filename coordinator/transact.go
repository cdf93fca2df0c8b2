package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// call waits for the answer to a request.
type call struct {
	done chan commit.Reply // capacity 1
}

// asError makes an *wire.Error of any error.
func asError(err error) *wire.Error {
	var e *wire.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return wire.NewError(wire.CodeCanceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return wire.NewError(wire.CodeUnavailable, "not in time")
	}
	return wire.NewError(wire.CodeIO, err.Error())
}

// Attach implements wire.Service.
func (c *Coordinator) Attach(ctx context.Context, req wire.Attach) (wire.Attached, error) {
	answer := make(chan wire.Attached, 1)
	if !c.ask(ctx, func() { answer <- c.m.Attach(req.Session) }) {
		return wire.Attached{}, c.gone(ctx, "attach")
	}
	return <-answer, nil
}

// Detach implements wire.Service.
func (c *Coordinator) Detach(ctx context.Context, session wire.SessionID) error {
	if !c.ask(ctx, func() { c.endSession(session) }) {
		return c.gone(ctx, "detach")
	}
	return nil
}

// endSession ends what a session has. Its locks go when what was put of it is
// decided, as if it had been silent: who has them next sees that (F10).
func (c *Coordinator) endSession(session wire.SessionID) {
	last := c.m.Fence(session)
	c.m.Detach(session)
	if s := c.locks.clients[session]; s != nil && c.m.Undecided(session, last) {
		s.lost, s.last = true, last
		return
	}
	c.locks.end(session)
}

// Watch implements wire.Service.
func (c *Coordinator) Watch(ctx context.Context, req wire.Watch) (wire.Watched, error) {
	answer := make(chan commit.Watched, 1)
	w := &commit.Watch{Watch: req, Token: answer}
	// The ticks are behind, by more when the owner was busy: the lease counts
	// from now.
	if !c.post(func() { c.m.Ask(w, c.behind()) }) {
		return wire.Watched{}, c.gone(ctx, "watch")
	}
	var got commit.Watched
	select {
	case got = <-answer:
	case <-ctx.Done():
		c.post(func() { c.m.Unask(w) })
		select {
		case got = <-answer:
		case <-c.done:
			return wire.Watched{}, c.gone(ctx, "watch")
		}
	case <-c.done:
		select {
		case got = <-answer:
		default:
			return wire.Watched{}, c.gone(ctx, "watch")
		}
	}
	if got.Err != nil {
		e := *got.Err
		e.Op = "watch"
		return wire.Watched{}, &e
	}
	return got.Watched, nil
}

// gone is the error of a call that the owner did not get to.
func (c *Coordinator) gone(ctx context.Context, op string) *wire.Error {
	if err := ctx.Err(); err != nil {
		e := *asError(err)
		e.Op = op
		return &e
	}
	return &wire.Error{Code: wire.CodeUnavailable, Op: op, Text: errStopped.Text}
}

// Transact implements wire.Service.
func (c *Coordinator) Transact(ctx context.Context, req wire.Transact, payload []byte) (wire.TransactReply, error) {
	began := time.Since(c.began)
	reply, err := c.transact(ctx, req, payload)
	c.count(ctx, &c.changes, began, err)
	return reply, err
}

func (c *Coordinator) transact(ctx context.Context, req wire.Transact, payload []byte) (wire.TransactReply, error) {
	if err := checkPayload(&req, payload); err != nil {
		return wire.TransactReply{}, err
	}
	if ctx.Err() != nil {
		return wire.TransactReply{}, named(&req, asError(ctx.Err()))
	}
	// The streams keep both until every participant has them, longer than
	// the caller may.
	req.Mutations = slices.Clone(req.Mutations)
	w := &call{make(chan commit.Reply, 1)}
	r := &commit.Request{Transact: req, Payload: bytes.Clone(payload), Token: w}
	submitted := c.post(func() {
		failpoint.At("coordinator.before-put")
		c.m.Submit(r)
	})
	if !submitted {
		return wire.TransactReply{}, named(&req, errStopped)
	}
	var reply commit.Reply
	select {
	case reply = <-w.done:
	case <-ctx.Done():
		c.post(func() { c.m.Cancel(r) })
		reply = <-w.done // the owner answers everything that was submitted
		if reply.Err != nil && reply.Err.Code == wire.CodeCanceled && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			e := *reply.Err
			e.Code = wire.CodeUnavailable
			reply.Err = &e
		}
	}
	if reply.Err != nil {
		return wire.TransactReply{}, named(&req, reply.Err)
	}
	return reply.Reply, nil
}

// checkPayload checks that the inline contents are those that the client
// summed up (G7).
func checkPayload(req *wire.Transact, payload []byte) *wire.Error {
	rest := payload
	for i := range req.Mutations {
		mu := &req.Mutations[i]
		if mu.Kind != wire.MutWriteFile {
			continue
		}
		if mu.Content.Stage == 0 {
			if err := take(req, i, mu.Content.Size, mu.Content.Sum, &rest); err != nil {
				return err
			}
		}
		for k := range mu.Extents {
			if e := &mu.Extents[k]; e.Stage == 0 {
				if err := take(req, i, e.Size, e.Sum, &rest); err != nil {
					return err
				}
			}
		}
	}
	if len(rest) > 0 {
		return named(req, &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("%d bytes of contents that no mutation names", len(rest))})
	}
	return nil
}

// take checks the next bytes of a payload.
func take(req *wire.Transact, i int, size int64, sum uint32, rest *[]byte) *wire.Error {
	bad := func(code wire.Code, text string) *wire.Error {
		return named(req, &wire.Error{Code: code, Mutation: i, Text: text})
	}
	if size < 0 || size > int64(len(*rest)) {
		return bad(wire.CodeInvalid, fmt.Sprintf("contents of %d bytes, of which %d came", size, len(*rest)))
	}
	if size > 0 && wire.Sum((*rest)[:size]) != sum {
		return bad(wire.CodeCorrupt, "the contents changed on their way to the coordinator: their checksum does not match; try again")
	}
	*rest = (*rest)[size:]
	return nil
}

var opNames = map[wire.MutationKind]string{
	wire.MutWriteFile: "writeFile", wire.MutDeleteFile: "deleteFile", wire.MutMkdir: "mkdir", wire.MutRmdir: "rmdir",
	wire.MutRename: "rename", wire.MutSymlink: "symlink", wire.MutSetattr: "setattr",
	wire.MutLink: "link", wire.MutMknod: "mknod", wire.MutSetxattr: "setxattr", wire.MutRemovexattr: "removexattr",
	wire.MutAllocate: "allocate", wire.MutPunchHole: "punchHole", wire.MutZeroRange: "zeroRange",
	wire.MutCreateUnlinked: "createUnlinked", wire.MutReclaim: "reclaim",
}

// named is a copy of an error that names the file and what was to be done to it.
func named(req *wire.Transact, err *wire.Error) *wire.Error {
	e := *err
	if e.Mutation >= 0 && e.Mutation < len(req.Mutations) {
		mu := &req.Mutations[e.Mutation]
		if e.Op == "" {
			e.Op = opNames[mu.Kind]
		}
		if e.Name == "" {
			e.Name = mu.At.String()
		}
	}
	if e.Op == "" {
		e.Op = "transact"
	}
	return &e
}
