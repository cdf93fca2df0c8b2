package main

// evictMutants leave out what P8 and P11 say of evictions and returns, and P9
// and P7 where they meet them.
var evictMutants = []mutant{
	pacing("a member that never votes is waited for", "return mem.linked && m.o.EvictSlow > 0 && mem.pace.others.sum >= m.o.EvictSlow", "return false", "TestHungDiskIsEvicted"),
	pacing("who is slow goes though nobody else has what it lacks", "		if m.ahead(i) {\n", "		if true {\n", "TestSlowTogether"),
	pacing("each wait counts for itself", "	if w.stretch < after {\n", "	w.sum = 0\n	if w.stretch < after {\n", "TestSlowDiskIsEvicted"),
	pacing("time without a wait is not taken off", "p.own.sum, p.others.sum = max(0, p.own.sum-ms), max(0, p.others.sum-ms)", "_ = ms", "TestSlowDiskIsEvicted"),
	pacing("time away counts", "	case !mem.linked:\n", "", "TestTimeAwayIsNotSlow"),
	pacing("who was slow comes back at once", "		p.until = m.now + p.out\n	}\n", "	}\n", "TestSlowComesBack"),
	pacing("who is slow stays out though nothing is written without it", "	if !m.enough() {\n		return 0\n	}\n", "", "TestSlowIsBetterThanNone"),
	pacing("likewise, who was never evicted", "return !m.enough()", "return false", "TestSlowIsBetterThanNone"),
	pacing("the coordinator's own stalls count", "ms <= 0 || ms > mostTick", "ms <= 0", "TestOwnStallsAreNobodysSlowness"),
	pacing("it flaps", "max(2*p.out, m.o.EvictSlow)", "max(p.out, m.o.EvictSlow)", "TestSlowComesBack"),
	{
		rule: "P8", leaves: "too few stay",
		edits: []edit{{
			"coordinator/commit/config.go",
			`	if stay < m.minInSync() {
		return nil
	}
`,
			``,
		}},
		test: "./coordinator/commit TestBelowTheMinimum",
	},
	{
		rule: "P8", leaves: "somebody is evicted at a start before the others have answered",
		edits: []edit{
			{
				"coordinator/commit/config.go",
				`	if len(lost) > 0 && answered < StartsWith(m.size(), m.minInSync()) || answered == 0 {
		return
	}
`,
				``,
			},
			{
				"coordinator/commit/config.go",
				`	if stay < m.minInSync() {
		return nil
	}
`,
				``,
			},
		},
		test: "./coordinator/commit TestStartWithoutOne",
	},
	{
		rule: "P8", leaves: "changes are put under a config that is not in force",
		edits: []edit{{"coordinator/commit/commit.go", "m.stop == nil && m.change == nil && m.joiner", "m.stop == nil && m.joiner"}},
		test:  "./coordinator/commit TestHungOnItsWayOut",
	},
	{
		rule: "P8", leaves: "an undecided change does not go on without who was evicted",
		edits: []edit{{
			"coordinator/commit/config.go",
			`		if t.state == undecided {
			m.tryDecide(t)
		}
`,
			`		_ = t
`,
		}},
		test: "./coordinator/commit TestEviction",
	},
	{
		rule: "P9", leaves: "W does not count who is on the way out",
		edits: []edit{{
			"coordinator/commit/member.go",
			`	for _, mem := range m.members {
		if mem.in {
			least`,
			`	for i, mem := range m.members {
		if mem.in && !m.leaving(i) {
			least`,
		}},
		test: "./coordinator/commit TestWatermarkCountsWhoGoes",
	},
	{
		rule: "P7", leaves: "one that has lost its data testifies",
		edits: []edit{{
			"coordinator/commit/config.go",
			`		case mem.unfit != nil, m.tooSlow(mem)`,
			`		case m.tooSlow(mem)`,
		}},
		test: "./coordinator/commit TestUnfit",
	},
	{
		rule: "P11, P13", leaves: "an outsider is told so before recovery is over",
		edits: []edit{{"coordinator/commit/member.go", `(!m.outsider(i) || m.phase == Serving)`, `(!m.outsider(i) || m.phase > 0)`}},
		test:  "./coordinator/commit TestOutsiderIsGreetedLate",
	},
	{
		rule: "P11", leaves: "the last round pauses nothing",
		edits: []edit{{"coordinator/commit/commit.go", "m.change == nil && m.joiner < 0 && m.missing", "m.change == nil && m.missing"}},
		test:  "./coordinator/commit TestDrain",
	},
	{
		rule: "P11", leaves: "the last round does not wait until all is durable",
		edits: []edit{{
			"coordinator/commit/config.go",
			`	if m.w != at {
`,
			`	if at.Index == 0 {
`,
		}},
		trace: "TestTraceLastRoundDrains", test: "./coordinator/commit TestDrain",
	},
	{
		rule: "P11", leaves: "the pause ends when the newcomer drops",
		edits: []edit{
			{"coordinator/commit/member.go", `	if m.joiner == i && m.change == nil {`, `	if m.joiner == i {`},
			{"coordinator/commit/commit.go", "m.stop == nil && m.change == nil && m.joiner", "m.stop == nil && (m.change == nil || m.change.admits >= 0) && m.joiner"},
		},
		test: "./coordinator/commit TestPauseHolds",
	},
	{
		rule: "P11", leaves: "a newcomer is let in as it comes",
		edits: []edit{{
			"coordinator/commit/config.go",
			`	if m.stop != nil || m.closing || m.joiner != i || m.change != nil || !m.newcomer(i, link) {
		return false`,
			`	if m.stop != nil || m.closing || m.change != nil || !m.newcomer(i, link) {
		return false`,
		}},
		test: "./coordinator/commit TestRoundGivenUp",
	},
	{
		rule: "P11", leaves: "what was staged without a newcomer is named with it",
		edits: []edit{{
			"coordinator/commit/config.go",
			`		if st.ready {
			m.dropStage(id, st)
		}
`,
			`		_, _ = id, st
`,
		}},
		test: "./coordinator/commit TestStagesOfBefore",
	},
	{
		rule: "P11", leaves: "a participant that is out of sync keeps what it has in doubt",
		edits: []edit{{
			"participant/vote/machine.go",
			`	m.txs, m.resync = map[wire.ID]*tx{}, why
`,
			`	m.resync = why
`,
		}},
		test: "./participant/vote TestScripts",
	},
	{
		rule: "P11", leaves: "a participant forgets over a crash that it is out of sync",
		edits: []edit{{
			"participant/vote/snapshot.go",
			`m.opened, m.lastID, m.forgotten, m.resync = s.Opened, s.LastID, s.Forgotten, s.Resync`,
			`m.opened, m.lastID, m.forgotten = s.Opened, s.LastID, s.Forgotten`,
		}},
		test: "./participant/vote TestOutsideInCheckpoint",
	},
	{
		rule: "P11", leaves: "a greeting moves the position that a newcomer is copied from",
		edits: []edit{{
			"participant/vote/machine.go",
			`	if m.opened {
		m.since = m.position
	}
`,
			`	m.since = m.position
`,
		}},
		trace: "TestTraceGreetingMovesNothing",
	},
	{
		rule: "P8", leaves: "a config beside other records is journaled lazily",
		edits: []edit{{"coordinator/owner.go", `isConfig); at >= 0 && err == nil; at`, `isConfig); at == 0 && err == nil; at`}},
		test:  "./coordinator TestConfigBesideOtherRecords",
	},
	{
		rule: "P5", leaves: "a read waits for ever for who gives nothing",
		edits: []edit{{"coordinator/read.go", "r.c.o.EvictSlow > 0 && r.c.hasOther(l)", "r.c.o.EvictSlow < 0 && r.c.hasOther(l)"}},
		test:  "./coordinator TestReadsGoOnWithoutWhoGivesNothing",
	},
	{
		rule: "P8", leaves: "who is never away for long stays, however short its links",
		edits: []edit{{"coordinator/link.go", "linked && short.ended(began, time.Now())", "linked && began.IsZero() && short.ended(began, time.Now())"}},
		test:  "./coordinator TestEvictedWithShortLinks",
	},
	{
		rule: "P7", leaves: "an OPEN waits for the sweep before",
		edits: []edit{{"participant/owner.go", "	before, ended := p.sweeping, p.sweepEnded\n	if before != nil {\n", "	before, ended := p.sweeping, p.sweepEnded\n	if before != nil {\n		<-before\n"}},
		test:  "./participant TestOpenDoesNotWaitForASweep",
	},
	{
		rule: "P11", leaves: "a greeting leaves the attempt to catch up that there was",
		edits: []edit{{"participant/service.go", "p.resync.attempt++", "p.resync.attempt += 0"}},
		test:  "./participant TestCatchUpRefusesALateFinish",
	},
	{
		rule: "P11", leaves: "contents that come in the turn in which one is let in go to the others alone",
		edits: []edit{{"coordinator/stage.go", "l != nil && c.m.InSync(i)", "l != nil && !l.outside.Load()"}},
		test:  "./coordinator TestStageBesideAnAdmission",
	},
	{
		rule: "F9", leaves: "a lease that is renewed after a stop lasts for as much longer",
		edits: []edit{{"coordinator/owner.go", "min(time.Since(c.began).Milliseconds()-c.lastMS, mostElapsed)", "time.Since(c.began).Milliseconds() - c.lastMS"}},
		test:  "./coordinator TestLeaseAfterAStall",
	},
	{
		rule: "F10", leaves: "a sign of life after a stop counts from before",
		edits: []edit{{"coordinator/locks.go", "s.heard = k.now + behind", "s.heard = k.now"}},
		test:  "./coordinator TestLockAfterAStall",
	},
	{
		rule: "P11", leaves: "a participant that is out of sync handles the stream",
		edits: []edit{{
			"participant/vote/machine.go",
			`	if m.resync != "" {
		return Ready{}, protocol("entry %d came to`,
			`	if m.resync == "no" {
		return Ready{}, protocol("entry %d came to`,
		}},
		test: "./participant/vote TestScripts",
	},
}

func pacing(leaves, before, after, test string) mutant {
	return mutant{rule: "P15", leaves: leaves, edits: []edit{{"coordinator/commit/pace.go", before, after}}, test: "./coordinator/commit " + test}
}
