package main

// shellMutants leave out what the participant's and the coordinator's own goroutines keep: the
// simulator mirrors these (see switches), and their packages' tests run them.
var shellMutants = []mutant{
	{
		rule: "W3", leaves: "nobody looks how long the words in a pack are",
		edits: []edit{
			{
				"participant/vote/bind.go",
				"	if b.prepare.Pack != nil { // nobody",
				"	if b.prepare.Pack == nil { // nobody",
			},
		},
		test: "./participant TestOversizedPack",
	},
	{
		rule: "P1", leaves: "the way up from where a directory moves to has no bound",
		edits: []edit{
			{
				"participant/vote/resolve.go",
				"		if depth == maxDepth {",
				"		if depth < 0 {",
			},
		},
		test: "./participant/vote TestMoveIntoDeepTree",
	},
	{
		rule: "S2", leaves: "a pack may begin within a block",
		edits: []edit{
			{
				"participant/store/pack.go",
				"	case st.skew != 0:",
				"	case st.skew < 0:",
			},
		},
		test: "./participant/store TestPackWithSkew",
	},
	{
		rule: "P2", leaves: "the participant votes when anything is synced",
		edits: []edit{
			{
				"participant/owner.go",
				`	for ; n < len(p.votes) && p.votes[n].lsn <= upTo; n++ {`,
				`	for ; n < len(p.votes) && upTo > 0; n++ {`,
			},
		},
		test: "./participant TestVoteWaitsForItsOwnSync",
	},
	{
		rule: "P4, P9", leaves: "the participant reports as durable what it has handled",
		edits: []edit{
			{
				"participant/owner.go",
				`	for n = 0; n < len(p.entries) && p.entries[n].lsn <= upTo; n++ {`,
				`	for n = 0; n < len(p.entries) && upTo > 0; n++ {`,
			},
		},
		test: "./participant TestVoteWaitsForItsOwnSync",
	},
	{
		rule: "P6", leaves: "the participant answers a greeting before its fence is durable",
		edits: []edit{
			{
				"participant/owner.go",
				`	if p.fence <= upTo {
		p.answerGreets()
	}
	if p.held`,
				`	if upTo > 0 {
		p.answerGreets()
	}
	if p.held`,
			},
		},
		test: "./participant TestFenceWaitsForItsOwnSync",
	},
	{
		rule: "P5", leaves: "the participant answers reads at once",
		edits: []edit{
			{
				"participant/gate.go",
				`	if err := g.checkLocked(epoch); err != nil || g.handled >= index {`,
				`	if err := g.checkLocked(epoch); err != nil || true {`,
			},
		},
		test: "./participant TestReadWaitsForItsPosition",
	},
	{
		rule: "P6", leaves: "the participant answers reads of older epochs",
		edits: []edit{
			{
				"participant/gate.go",
				`	case epoch == g.epoch:
		return nil
`,
				`	case epoch.Number <= g.epoch.Number:
		return nil
`,
			},
		},
		test: "./participant TestGate",
	},
	{
		rule: "S3", leaves: "a journal that ends below what the store has applied is taken",
		edits: []edit{
			{
				"participant/recovery.go",
				`	case r.log.End() < applied:`,
				`	case r.log.End() < applied && r.log.End() > 1<<40:`,
			},
		},
		test: "./participant TestJournalIsGone",
	},
	{
		rule: "P8", leaves: "the coordinator's CONFIG counts before it is durable",
		edits: []edit{
			{
				"coordinator/ledger.go",
				`	if err == nil {
		l.waiting = append(l.waiting, waiting{lsn, done})
	}`,
				`	if err == nil {
		_ = lsn
		done()
	}`,
			},
		},
		test: "./coordinator TestDurableFirst",
	},
	{
		rule: "S3", leaves: "prepares do not wait at the table's bound",
		edits: []edit{
			{
				"participant/owner.go",
				`	if !p.store.TableFull() {`,
				`	if true {`,
			},
		},
		test: "./participant TestTableDoesNotGrow",
	},
	{
		rule: "S3", leaves: "the participant's checkpoint does not wait for its journal",
		edits: []edit{
			{
				"participant/resync.go",
				`ck.Run(p.syncJournal)`,
				`ck.Run(func() error { return nil })`,
			},
		},
		test: "./participant TestCheckpointWaitsForTheJournal",
	},
	{
		rule: "J2, P3", leaves: "the participant never forces its lazy records",
		edits: []edit{
			{
				"participant/owner.go",
				`		p.writer.Force()
		p.armQuiet()`,
				`		p.armQuiet()`,
			},
		},
		test: "./participant TestLazyRecordsAreSyncedInTheEnd",
	},
	{
		rule: "J3", leaves: "the participant does not seal its idle journal",
		edits: []edit{
			{
				"participant/owner.go",
				`	case !p.sealed: // idle`,
				`	case false: // idle`,
			},
		},
		test: "./participant TestIdleJournalIsSealed",
	},
	{
		rule: "P12", leaves: "the participant goes on after a failed sync",
		edits: []edit{
			{
				"participant/owner.go",
				`	case err != nil:
		p.fail(err)
		return
	default:
		p.full`,
				`	case err != nil:
	default:
		p.full`,
			},
		},
		test: "./participant TestFailedSyncEndsWithoutVoting",
	},
	{
		rule: "P12", leaves: "the participant votes after a failed sync",
		edits: []edit{
			{
				"participant/owner.go",
				`	case err != nil:
		p.fail(err)
		return
	default:
		p.full`,
				`	case err != nil:
		upTo = p.end
	default:
		p.full`,
			},
		},
		test: "./participant TestFailedSyncEndsWithoutVoting",
	},
	{
		rule: "P6", leaves: "the coordinator greets before its EPOCH is durable",
		edits: []edit{
			{
				"coordinator/ledger.go",
				`	if err == nil {
		err = l.log.Flush()
	}
`,
				"",
			},
		},
		test: "./coordinator TestEpochOutlivesAPowerLoss",
	},
	{
		rule: "P13", leaves: "the coordinator cuts its journal before the SNAPSHOT is durable",
		edits: []edit{
			{
				"coordinator/ledger.go",
				`		l.waiting = append(l.waiting, waiting{lsn, func() { _ = l.w.Cut(lsn) }})`,
				`		_ = l.w.Cut(lsn)`,
			},
		},
		test: "./coordinator TestCutWaitsForTheSnapshot",
	},
	{
		rule: "P5", leaves: "the coordinator replies before reads know",
		edits: []edit{
			{
				"coordinator/owner.go",
				`	c.readPoint.Store(c.m.ReadPoint())
`,
				"",
			},
			{
				"coordinator/owner.go",
				`	c.journal(rd.Records)
`,
				`	c.readPoint.Store(c.m.ReadPoint())
	c.journal(rd.Records)
`,
			},
		},
		test: "./coordinator TestReadPointComesBeforeTheReply",
	},
}
