package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tpcfs/wire"
)

// compare compares the rows of all participants in sync, and has one renewed that
// does not agree with the majority. That takes all from any of the others: they have
// to be known as right in all, and to lack nothing that it has. So it is not done
// with two that are wrong, with checksums that differ, where one may have the last
// block that is right and others know it as bad, or when not all was compared.
func (r *scrubRun) compare(ctx context.Context) {
	bad := map[int]bool{} // members that do not agree with the majority
	all := r.compareRanges(ctx, bad)
	why := ""
	switch {
	case !all:
		why = "not everything could be compared"
	case r.sums:
		why = "checksums differ too, and another scrub of all participants has to repair contents first"
	case len(bad) > 1:
		why = "another one is wrong as well, and it might get everything from that: look which of them is right, and start the others on empty directories, one after the other"
	}
	r.c.scrub.undecidedAre(r.c.called(), func(i int) (undecided, known bool) {
		return r.undecided[i], all && i < len(r.met) && r.met[i] == r.ranges && ctx.Err() == nil
	})
	if all {
		r.compared(ctx, bad)
	}
	for _, i := range slices.Sorted(maps.Keys(bad)) {
		if why == "" {
			r.renew(ctx, i)
			continue
		}
		r.c.scrub.change(i, func(m *wire.ScrubMember) { note(m, "it does not get everything anew: "+why) })
	}
}

// compared notes who was not compared in all ranges, and of who was that an older
// verdict counts no more: not of one that stands in a difference without a majority, as
// where too few are there for one.
func (r *scrubRun) compared(ctx context.Context, bad map[int]bool) {
	for i, chosen := range r.chosen {
		switch name := r.c.peers[i].called(); {
		case chosen && r.met[i] < r.ranges && r.failed[i] != nil:
			r.problemAt(i, r.failed[i])
		case chosen && r.met[i] < r.ranges:
			r.problemAt(i, errAway)
		case name != "" && r.met[i] == r.ranges && !bad[i] && !r.undecided[i] && ctx.Err() == nil && r.c.comparesAll(i):
			if err := r.c.renews(name, false); err != nil {
				r.c.log.Warn("what a scrub has found cannot be remembered", "err", err)
			}
		}
	}
}

// compareRanges compares range by range; false: it did not come to the end. A
// cluster of one participant has its rows read.
func (r *scrubRun) compareRanges(ctx context.Context, bad map[int]bool) bool {
	names := slices.DeleteFunc(r.c.called(), func(name string) bool { return name == "" })
	fails := 0
	for from, more := []byte(nil), true; more && ctx.Err() == nil; {
		links := r.c.others(-1)
		if len(links) < min(2, len(names)) {
			r.problem("there is nobody to compare its metadata with")
			return false
		}
		l := links[fails%len(links)]
		first, _, err := r.ask(ctx, l, wire.Compare{From: from, Choose: true})
		if err != nil {
			r.fails(l.member, err)
			if fails++; fails > compareTries {
				r.problem("its metadata could not be compared: " + err.Error())
				return false
			}
			pause(ctx, repairBusy)
			continue
		}
		req := wire.Compare{From: from, Next: first.Next}
		if len(from) == 0 && len(first.Next) == 0 {
			return true // a store without rows
		}
		all, err := r.atOnePosition(ctx, req, min(2, len(names)))
		if err != nil {
			return false // that is noted
		}
		if slices.ContainsFunc(all, func(a compared) bool { return string(a.Digest) != string(all[0].Digest) || a.More }) {
			if all, err = r.differ(ctx, req, bad); err != nil {
				return false
			}
		}
		r.ranges++
		for _, a := range all {
			r.met[a.member]++
		}
		r.c.scrub.mu.Lock()
		r.c.scrub.report.Rows += first.Rows
		r.c.scrub.mu.Unlock()
		from, more, fails = first.Next, len(first.Next) > 0, 0
	}
	return ctx.Err() == nil
}

func (r *scrubRun) problem(text string) {
	for i := range r.chosen {
		r.problemAt(i, errors.New(text))
	}
}

// errAway is why a participant is not looked at.
var errAway = wire.NewError(wire.CodeUnavailable, "it is not in sync and there")

// problemAt notes why a participant was not looked at to the end, or, of one that
// says so, that its rows are damaged. It may say so more than once before it ends.
func (r *scrubRun) problemAt(i int, err error) {
	r.c.scrub.change(i, func(m *wire.ScrubMember) {
		if wire.CodeOf(err) == wire.CodeCorrupt && !r.damaged[i] {
			r.damaged[i] = true
			m.Found++
			note(m, err.Error())
		}
		if m.Problem == "" && r.chosen[i] {
			m.Problem = err.Error()
		}
	})
}

// fails notes that a participant did not answer: it may be gone soon, and the others
// are compared, or answer the next time. Only damage is a finding at once.
func (r *scrubRun) fails(i int, err error) {
	r.failed[i] = err
	if wire.CodeOf(err) == wire.CodeCorrupt {
		r.problemAt(i, err)
	}
}

// compared is a participant's answer.
type compared struct {
	wire.Compared
	member int
	body   []byte
	err    error
}

func (r *scrubRun) ask(ctx context.Context, l *link, req wire.Compare) (wire.Compared, []byte, error) {
	during, cancel := l.during(ctx)
	defer cancel()
	req.Epoch = r.c.epoch
	l.need(req.Index)
	c, body, err := l.replica.Compare(during, req)
	return c, body, gone(ctx, l, err)
}

// atOnePosition asks all participants in sync, of which there have to be so many, for
// rows of one position. While changes come that is one some way ahead, where each of
// them stops for a moment. Why it could not be done is noted.
func (r *scrubRun) atOnePosition(ctx context.Context, req wire.Compare, least int) ([]compared, error) {
	last := errors.New("the participants were never at one position: too much changes to compare their metadata")
	for range compareTries {
		req.Index = r.c.readPoint.Load() + r.ahead
		var all []compared
		answers := make(chan compared, len(r.c.links))
		links := r.c.others(-1)
		for _, l := range links {
			go func() { // it ends with the call, which is waited for
				c, body, err := r.ask(ctx, l, req)
				answers <- compared{c, l.member, body, err}
			}()
		}
		for range links {
			all = append(all, <-answers)
		}
		slices.SortFunc(all, func(a, b compared) int { return a.member - b.member })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		ok := len(all) >= least
		for _, a := range all {
			if a.err != nil {
				ok = false
				r.fails(a.member, a.err)
			}
		}
		if !ok {
			last = errors.New("too few participants answer to compare its metadata")
			pause(ctx, repairBusy)
			continue
		}
		if !slices.ContainsFunc(all, func(a compared) bool { return a.Position != all[0].Position }) {
			return all, nil
		}
		if slices.ContainsFunc(all, func(a compared) bool { return a.Position.Index > req.Index }) {
			r.ahead = max(4, min(2*r.ahead, 1<<16)) // it was too late there
		} else {
			r.ahead /= 2
		}
	}
	r.problem(last.Error())
	return nil, last
}

// differ looks for the rows that differ, and for whose. It returns who was asked.
func (r *scrubRun) differ(ctx context.Context, req wire.Compare, bad map[int]bool) ([]compared, error) {
	req.Rows = true
	all, err := r.atOnePosition(ctx, req, 2)
	if err != nil {
		return nil, err
	}
	rows := map[string]map[int]string{} // digest and name, by key and member
	for _, a := range all {
		list, err := wire.DecodeRows(a.body)
		if err != nil {
			r.problemAt(a.member, err)
			return nil, err
		}
		for _, row := range list {
			if rows[row.Key] == nil {
				rows[row.Key] = map[int]string{}
			}
			rows[row.Key][a.member] = string(row.Val)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		r.judge(key, rows[key], all, bad)
	}
	return all, nil
}

// judge tells who is right about a row: the majority, if there is one. Of checksums
// it does not: each participant marks blocks as bad by itself (S5), and many that
// have lost one are not more right than one that has it.
func (r *scrubRun) judge(key string, row map[int]string, all []compared, bad map[int]bool) {
	says := map[string][]int{} // "": it has none
	for _, a := range all {
		says[row[a.member]] = append(says[row[a.member]], a.member)
	}
	if len(says) == 1 {
		return
	}
	sums := key[0] == sumRow
	if r.sums = r.sums || sums; sums && r.isRotten(key, all) {
		return
	}
	name := ""
	for val := range says {
		if len(val) >= wire.RowDigest {
			name = val[wire.RowDigest:]
		}
	}
	var names []string
	for _, val := range slices.SortedFunc(maps.Keys(says), func(a, b string) int { return says[a][0] - says[b][0] }) {
		var who []string
		for _, i := range says[val] {
			who = append(who, r.c.peers[i].called())
		}
		names = append(names, strings.Join(who, "+"))
	}
	majority := !sums && slices.ContainsFunc(slices.Collect(maps.Values(says)), func(o []int) bool { return 2*len(o) > len(all) })
	for _, a := range all {
		r.undecided[a.member] = r.undecided[a.member] || !majority
	}
	for _, members := range says {
		if 2*len(members) > len(all) {
			continue
		}
		for _, i := range members {
			if majority {
				bad[i] = true
			}
			r.c.scrub.change(i, func(m *wire.ScrubMember) {
				m.Found++
				note(m, fmt.Sprintf("%s differs: %s", name, strings.Join(names, " | ")))
			})
		}
	}
}

// sumRow begins the keys of rows of checksums; the object's number follows.
const sumRow = 's'

// isRotten: is the row about checksums of an object that has rotten blocks? What a
// participant does not know of them it keeps in that row.
func (r *scrubRun) isRotten(key string, all []compared) bool {
	for _, a := range all {
		for object := range r.rotten[a.member] {
			if strings.HasPrefix(key, string(binary.BigEndian.AppendUint64([]byte{sumRow}, uint64(object)))) {
				return true
			}
		}
	}
	return false
}
