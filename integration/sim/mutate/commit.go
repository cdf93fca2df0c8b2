package main

// commitMutants leave out what coordinator/commit keeps: decisions, recovery, W, links, retries.
var commitMutants = []mutant{
	{
		rule: "P3", leaves: "a majority commits",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	case yes == all && t.dup == nil:`,
				`	case yes >= all-1 && t.dup == nil:`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P4", leaves: "of mixed votes the client hears at once",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	m.aborts = append(m.aborts, t)
	m.record`,
				`	m.aborts = append(m.aborts, t)
	m.answer(t, nil, why)
	m.record`,
			},
		},
		trace: "TestTraceAbortDurableEverywhere",
	},
	{
		rule: "P4, P9", leaves: "durable at one member is durable",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		least = min(least, mem.durable)`,
				`		least = max(mem.durable, min(least, mem.durable))`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P4", leaves: "ABORT is durable when one member has it",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	for ; n < len(m.aborts) && m.aborts[n].decided <= m.durable; n++ {`,
				`	for ; n < len(m.aborts) && m.aborts[n].decided <= max(m.members[0].durable, m.members[1].durable, m.members[2].durable); n++ {`,
			},
			{
				"coordinator/commit/member.go",
				`	if m.stop == nil && m.advance() {
		m.settle()
	}`,
				`	if m.stop == nil && m.advance() {
		m.settle()
	}
	m.abortsDurable()`,
			},
		},
		seeds: 4000, hint: 188, trace: "TestTraceAbortDurableEverywhere",
	},
	{
		rule: "P5", leaves: "reads do not wait for a COMMIT",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	m.decision = t.decided
	m.record(&Record{Kind: RecDecision, Decision: &Decision{Tx: t.id, Prepared: t.prepared, Commit: true}`,
				`	m.record(&Record{Kind: RecDecision, Decision: &Decision{Tx: t.id, Prepared: t.prepared, Commit: true}`,
			},
		},
		seeds: 4000, trace: "TestTraceReadAfterReply",
	},
	{
		rule: "P5", leaves: "reads do not wait for OPEN, only for what recovery decides",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`	m.decision = m.open
`,
				`	m.decision = max(m.decision, 1)
`,
			},
		},
		equivalent: "OPEN changes nothing that is read; a member that joins is served from only behind it",
	},
	{
		rule: "P5", leaves: "reads do not wait for what recovery decides",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`	m.decision = m.open
`,
				`	m.decision = 1
`,
			},
		},
		seeds: 4000, trace: "TestTraceReadAfterRecovery",
	},
	{
		rule: "P7", leaves: "what all have prepared is not rolled forward",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`		if commit || !abort && len(f.never) == 0 {`,
				`		_ = abort
		if commit {`,
			},
		},
		seeds: 4000, hint: 220, trace: "TestTraceRollForward",
	},
	{
		rule: "P7", leaves: "who has never prepared does not count",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`		if commit || !abort && len(f.never) == 0 {`,
				`		if commit || !abort {`,
			},
		},
		seeds: 4000, trace: "TestTraceNeverPrepared",
	},
	{
		rule: "P7", leaves: "an ABORT that somebody keeps does not count",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`		abort := f.aborts > 0 || f.decided != nil && !f.decided.Commit
		if commit`,
				`		abort := f.decided != nil && !f.decided.Commit
		if commit`,
			},
		},
		seeds: 4000, hint: 152,
	},
	{
		rule: "P7", leaves: "who cannot be reached has never prepared",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		if mem.in {
			least = min(least, mem.durable)
		}`,
				`		if mem.in && mem.answered {
			least = min(least, mem.durable)
		}`,
			},
			{
				"coordinator/commit/config.go",
				`		if mem.in && !m.leaving(i) && mem.durable < c.index {`,
				`		if mem.answered && mem.in && !m.leaving(i) && mem.durable < c.index {`,
			},
			{
				"coordinator/commit/config.go",
				`		case !mem.answered || mem.unfit != nil:
			return
		default:
			answered++
		}
	}
`,
				`		case !mem.answered || mem.unfit != nil:
		default:
			answered++
		}
	}
	if answered < len(m.members)-1 {
		return
	}
`,
			},
		},
		seeds: 4000, trace: "TestTraceUnreachableIsNotNever",
	},
	{
		rule: "P7", leaves: "of contradicting answers one is believed",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`	default:
		return nil
	}
	return &wire.Error{Code: wire.CodeCorrupt, Text`,
				`	default:
		return nil
	}
	if why != "" {
		return nil
	}
	return &wire.Error{Code: wire.CodeCorrupt, Text`,
			},
		},
		test: "./coordinator/commit TestContradictions",
	},
	{
		rule: "P8", leaves: "CONFIG is put before it is durable here",
		edits: []edit{
			{
				"coordinator/commit/config.go",
				`	if m.held == 0 {
		m.held = m.change.index
	}
`,
				``,
			},
		},
		seeds: 4000, test: "./coordinator/commit TestEvictionIsForced",
	},
	{
		rule: "P8", leaves: "recovery does not wait until all hold the config",
		edits: []edit{
			{
				"coordinator/commit/config.go",
				`m.leaving(i) && mem.durable < c.index {`,
				`m.leaving(i) && mem.durable < c.index && false {`,
			},
			{
				"coordinator/commit/config.go",
				`	m.held = 0
	if m.change.admits >= 0 {`,
				`	m.held = 0
	m.tryEffect()
	if m.change != nil && m.change.admits >= 0 {`,
			},
		},
		test: "./coordinator/commit TestEvictionAtMembers",
	},
	{
		rule: "P8, G6", leaves: "a change under way is told to be unavailable",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	return &wire.Error{Code: wire.CodeUnknownOutcome, Text: text}`,
				`	return &wire.Error{Code: wire.CodeUnavailable, Text: text}`,
			},
		},
		seeds: 4000, trace: "TestTraceUnknownNotUnavailable",
	},
	{
		rule: "P8", leaves: "prepares are put while a member has no link",
		edits: []edit{
			{
				"coordinator/commit/commit.go",
				"m.joiner < 0 && m.missing() == nil",
				"m.joiner < 0",
			},
		},
		seeds: 4000,
	},
	{
		rule: "P8", leaves: "an epoch does not issue its config anew",
		edits: []edit{
			{
				"coordinator/commit/config.go",
				`	c := &wire.Config{ID: wire.ConfigID{Epoch: m.epoch.Number, Counter: 1}, Cluster: m.o.Cluster, InSync: inSync}
`,
				`	c := &wire.Config{ID: wire.ConfigID{Epoch: m.epoch.Number, Counter: 1}, Cluster: m.o.Cluster, InSync: inSync}
	if m.state.Config != nil {
		c.ID = m.state.Config.ID
	}
`,
			},
		},
		seeds: 4000, trace: "TestTraceOldBackupInsists",
	},
	{
		rule: "P9", leaves: "W enters an epoch before its OPEN is durable",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	if m.phase != Serving || m.durable < m.open {`,
				`	if m.phase != Serving {`,
			},
		},
		seeds: 4000, hint: 394, trace: "TestTraceWatermarkAndOpen",
	},
	{
		rule: "P9", leaves: "W passes what is undecided",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		if t.state == undecided || t.decided > m.durable {`,
				`		if t.decided > m.durable {`,
			},
		},
		trace: "TestTraceWatermarkWaitsForVotes",
	},
	{
		rule: "P9", leaves: "W passes decisions that are not durable",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		if t.state == undecided || t.decided > m.durable {`,
				`		if t.state == undecided {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P9", leaves: "what is ahead of W is not bounded",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`	return m.last-low < m.o.MaxAhead && m.bytes < m.o.MaxBytes`,
				`	return m.last-low < m.o.MaxAhead || m.bytes < m.o.MaxBytes`,
			},
		},
		test: "./coordinator/commit TestPushBack",
	},
	{
		rule: "P10", leaves: "a resumed stream skips what was lost with its link",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	mem.handled, mem.next, mem.asked = at, at+1, 0
`,
				`	mem.handled, mem.next, mem.asked = at, max(mem.next, at+1), 0
`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P10", leaves: "entries leave in another order",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		l := &m.log[mem.next-m.trimmed-1]
`,
				`		l := &m.log[m.last-m.trimmed-1-min(m.last-mem.next, m.last-mem.next)/2]
`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P10", leaves: "a stream goes on after what is durable, not after what was handled",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	mem.handled, mem.next, mem.asked = at, at+1, 0
`,
				`	at = min(at, mem.durable)
	mem.handled, mem.next, mem.asked = at, at+1, 0
`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P10", leaves: "a counted NO comes again as PREPARE",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		if l.tx != nil && (l.tx.votes[i] == wire.VoteNo`,
				`		if l.tx != nil && false && (l.tx.votes[i] == wire.VoteNo`,
			},
		},
		seeds: 4000, hint: 2282, trace: "TestTraceCountedNoStays",
	},
	{
		rule: "P10", leaves: "what was aborted comes again as PREPARE",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				" || l.tx.state == aborted) {",
				") {",
			},
		},
		equivalent: "an ABORT is put when all have voted, and who voted YES is past its PREPARE; an abort before all have voted will need it",
	},
	{
		rule: "P10", leaves: "a lost NO is not found by the position",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		case k == nil:
			m.vote`,
				`		case k == nil:
			continue
		case false:
			m.vote`,
			},
		},
		test: "./coordinator/commit TestResumeVotes", equivalent: "a NO's record carries the position, so who is past a prepare tells of it or is sent it again; what is copied to a newcomer will need it",
	},
	{
		rule: "P10", leaves: "a NO in the greeting's testimony does not count",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`		case k.State == wire.TxRefused:
			m.vote(t, i, wire.VoteNo, k.Err, nil, nil)`,
				`		case k.State == wire.TxRefused:
			continue`,
			},
		},
		test: "./coordinator/commit TestResumeVotes", equivalent: "the NO is voted again too: both are left out below",
	},
	{
		rule: "P10", leaves: "what an old link brings counts",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	if m.stop != nil || !mem.linked || mem.link != link {`,
				`	if m.stop != nil {`,
			},
		},
		trace: "TestTraceOldLinkIsNotHeard",
	},
	{
		rule: "P10", leaves: "a second vote replaces the first",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	if t.state != undecided || t.votes[i] != 0 {`,
				`	if t.state != undecided {`,
			},
		},
		test: "./coordinator/commit TestFirstVoteCounts",
	},
	{
		rule: "P13", leaves: "an old journal is not noticed",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	c := g.Config
	switch {
	case g.Held`,
				`	c := g.Config
	switch {
	case true:
		return nil
	case g.Held`,
			},
		},
		seeds: 4000, trace: "TestTraceOldBackupInsists",
	},
	{
		rule: "P13", leaves: "an old journal is noticed by its epoch alone",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	case c.ID.Epoch < m.epoch.Number && c.ID.Compare(m.base) > 0:`,
				`	case false:`,
			},
			{
				"coordinator/commit/member.go",
				`	case m.state.Config != nil && c.ID.Compare(m.state.Config.ID) > 0:`,
				`	case false:`,
			},
		},
		seeds: 4000, hint: 185, trace: "TestTraceOldBackupInsists",
	},
	{
		rule: "P13", leaves: "a config newer than the journal's, from before its epoch, is not noticed",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	case c.ID.Epoch < m.epoch.Number && c.ID.Compare(m.base) > 0:`,
				`	case false:`,
			},
		},
		equivalent: "all have answered before this epoch's config is issued: until then the journal's config is the newest known; a start that does not wait for all will need it",
	},
	{
		rule: "P13", leaves: "another run's epoch of the same number is not noticed",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	case g.Held.Number == m.epoch.Number && g.Held.Run != m.epoch.Run:`,
				`	case false:`,
			},
		},
		test: "./coordinator/commit TestStaleGreeting", equivalent: "that participant refuses the greeting (P6), and the refusal ends the start",
	},
	{
		rule: "W5", leaves: "a replaced link's request is put",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`	if s == nil || s.link != link {`,
				`	if s == nil {`,
			},
		},
		seeds: 4000, tune: "retrying", trace: "TestTraceReplacedLink",
	},
	{
		rule: "W5", leaves: "what waits by a replaced link stays in the queue",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`	s.link, s.used = m.links, m.now
	m.dropQueued(id)
`,
				`	s.link, s.used = m.links, m.now
`,
			},
		},
		test: "./coordinator/commit TestReplacedLink", equivalent: "the link is looked at again when it is put: both are left out below",
	},
	{
		rule: "W5", leaves: "a retry does not join its first attempt",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`	if t := m.ops[op]; t != nil && !m.mayRunAnew(t) {`,
				`	if t := m.ops[op]; t != nil && false {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "W5", leaves: "requests below the lowest unanswered one are put",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`	if seq == 0 || seq < s.lowest {`,
				`	if seq == 0 {`,
			},
		},
		test: "./coordinator/commit TestLowest", equivalent: "a link brings requests in their order, and what comes by a replaced one is refused; a client that breaks that order needs it",
	},
	{
		rule: "W5, P4", leaves: "a retry runs beside an ABORT that is not durable",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				"t.state == aborted && t.decided <= m.durable",
				"t.state == aborted",
			},
		},
		trace: "TestTraceRetryWaitsForAbort",
	},
	{
		rule: "W5, P7", leaves: "a retry does not find what recovery has decided",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`	if old := m.ops[f.op]; old == nil || old.state != committed {`,
				`	if old := m.ops[f.op]; false && old == nil {`,
			},
		},
		trace: "TestTraceRetryAfterRecovery",
	},
	{
		rule: "F5", leaves: "a retry is put before who was in its way is decided",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`	if t != nil {
		m.park(r, t)`,
				`	if t != nil && false {
		m.park(r, t)`,
			},
		},
		seeds: 1000,
	},
	{
		rule: "F5", leaves: "what is parked is not let go",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	m.release(t.line) // what`,
				`	// what`,
			},
		},
		seeds: 1000,
	},
	{
		rule: "F5", leaves: "who is behind a retry is forgotten when that is put",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	t.line, r.next = r.next, nil`,
				`	r.next = nil`,
			},
		},
		seeds: 4000, test: "./coordinator/commit TestParkedInOrder",
	},
	{
		rule: "F5", leaves: "who is behind a retry is forgotten when that goes away",
		edits: []edit{
			{
				"coordinator/commit/tx.go",
				`	m.release(r.next) // it`,
				`	// it`,
			},
		},
		test: "./coordinator/commit TestParkedLeave",
	},
	{
		rule: "F5", leaves: "all that wait for the same lock go at once",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`		if f == nil {
			byKey`,
				`		if true {
			byKey`,
			},
		},
		test: "./coordinator/commit TestParkedBehindOneOnDifferentFiles",
	},
	{
		rule: "F5", leaves: "who waits because of one lock waits for who waits because of another",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`	l.mixed = l.mixed || len`,
				`	l.mixed = l.mixed && len`,
			},
		},
		test: "./coordinator/commit TestParkedBehindOneOnDifferentFiles",
	},
	{
		rule: "F5", leaves: "only the first of a line is kept",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`		f.next = l
`,
				``,
			},
		},
		test: "./coordinator/commit TestParkedInOrder",
	},
	{
		rule: "F5", leaves: "what is parked may take every place",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`		part = 2`,
				`		part = 1`,
			},
		},
		test: "./coordinator/commit TestParkedIsBoundedAndEnds",
	},
	{
		rule: "F5", leaves: "what a request that waits has staged is dropped",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`		if !wanted[id] {`,
				`		if true {`,
			},
		},
		test: "./coordinator/commit TestParkedAndStages",
	},
	{
		rule: "S1a", leaves: "service time begins anew with an epoch",
		edits: []edit{
			{
				"coordinator/commit/member.go",
				`	m.state.ServiceTime = max(m.state.ServiceTime, g.ServiceTime)
`,
				"",
			},
		},
		seeds: 8000, hint: 1153, tune: "outages", trace: "TestTraceServiceTimeGoesOn",
	},
	{
		rule: "S1a", leaves: "service time goes on in outages",
		edits: []edit{
			{
				"coordinator/commit/commit.go",
				`	if m.writable() {
		m.state.ServiceTime += ms
	}`,
				`	m.state.ServiceTime += ms`,
			},
		},
		trace: "TestTraceOutageKeepsOutcomes",
	},
	{
		rule: "P10", leaves: "a NO that was lost is neither voted again nor found in the greeting",
		edits: []edit{
			{
				"participant/vote/greet.go",
				`		case t.state == wire.TxRefused:
			v.Verdict = wire.VoteNo`,
				`		case t.state == wire.TxRefused:
			continue`,
			},
			{
				"coordinator/commit/member.go",
				`		case k.State == wire.TxRefused:
			m.vote(t, i, wire.VoteNo, k.Err, nil, nil)`,
				`		case k.State == wire.TxRefused:
			continue`,
			},
		},
		seeds: 4000, trace: "TestTraceLostNo",
	},
	{
		rule: "W5", leaves: "nobody keeps two attempts of one operation apart",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if id, ok := m.ops[p.Op]; ok {`,
				`	if id, ok := m.ops[p.Op]; ok && false {`,
			},
			{
				"coordinator/commit/queue.go",
				`	if t := m.ops[op]; t != nil && !m.mayRunAnew(t) {`,
				`	if t := m.ops[op]; t != nil && false {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "W5", leaves: "what waits by a replaced link is put",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`	s.link, s.used = m.links, m.now
	m.dropQueued(id)
`,
				`	s.link, s.used = m.links, m.now
`,
			},
			{
				"coordinator/commit/queue.go",
				`		if err := m.checkSession(r.Transact.Op.Session, r.Transact.Link); err != nil {
			m.reply(r, nil, err)
			continue
		}
`,
				"",
			},
		},
		test: "./coordinator/commit TestReplacedLink", equivalent: "when the request comes again it takes the place of what waits, and else nobody hears of it; with that left out too it follows below",
	},
	{
		rule: "W5", leaves: "the same request waits twice, by two links, and is put twice",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`	s.link, s.used = m.links, m.now
	m.dropQueued(id)
`,
				`	s.link, s.used = m.links, m.now
`,
			},
			{
				"coordinator/commit/queue.go",
				`		if err := m.checkSession(r.Transact.Op.Session, r.Transact.Link); err != nil {
			m.reply(r, nil, err)
			continue
		}
`,
				"",
			},
			{
				"coordinator/commit/queue.go",
				`	if first := m.queued[op]; first != nil {`,
				`	if first := m.queued[op]; first != nil && false {`,
			},
		},
		seeds: 4000, tune: "retrying",
	},
	{
		rule: "P7", leaves: "the coordinator's own decisions do not count",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`		found[id].decided = &d
`,
				`		_ = d
`,
			},
		},
		equivalent: "a COMMIT that it has put was prepared everywhere and an ABORT refused by somebody, and all are asked; an eviction will need it",
	},
	{
		rule: "P13", leaves: "a SNAPSHOT has no config",
		edits: []edit{
			{
				"coordinator/commit/record.go",
				`		Kind: RecSnapshot, Epoch: s.Epoch, Config: s.Config, Root: s.Root,`,
				`		Kind: RecSnapshot, Epoch: s.Epoch,`,
			},
		},
		seeds: 4000, tune: "starting",
	},
	{
		rule: "P13", leaves: "a SNAPSHOT has no epoch",
		edits: []edit{
			{
				"coordinator/commit/record.go",
				`		Kind: RecSnapshot, Epoch: s.Epoch, Config: s.Config, Root: s.Root,`,
				`		Kind: RecSnapshot, Epoch: wire.Epoch{Number: 1}, Config: s.Config, Root: s.Root,`,
			},
		},
		seeds: 4000, tune: "starting",
	},
	{
		rule: "P8", leaves: "a bootstrap that may not be over is not repeated",
		edits: []edit{
			{
				"coordinator/commit/config.go",
				`	root := m.state.Root // a bootstrap that may not be over is repeated
`,
				`	var root *wire.Root
`,
			},
		},
		seeds: 4000,
	},
}
