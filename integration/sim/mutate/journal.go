package main

// journalMutants leave out what the journal keeps: what is durable is found, what is not is not believed.
var journalMutants = []mutant{
	{
		rule: "J2", leaves: "a sync is reported before it is done",
		edits: []edit{
			{
				"journal/log.go",
				`	if err := l.active().file.Sync(); err != nil {
		return l.fail("sync", l.active(), err)
	}
	l.stats.Syncs++`,
				`	l.stats.Syncs++`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "J3", leaves: "a new segment begins before the last one is synced",
		edits: []edit{
			{
				"journal/log.go",
				`	if err := l.sync(); err != nil {
		return err
	}
	if err := l.needSpare()`,
				`	if err := l.needSpare()`,
			},
		},
		seeds: 4000, tune: "starting",
	},
	{
		rule: "J3", leaves: "a torn tail is not zeroed",
		edits: []edit{
			{
				"journal/recover.go",
				`	for _, t := range pieces {
		if err := zero(`,
				`	for _, t := range pieces[:0] {
		if err := zero(`,
			},
		},
		test: "./journal TestCutTailNeverComesBack",
	},
	{
		rule: "J3", leaves: "segments are opened without a sync",
		edits: []edit{
			{
				"journal/recover.go",
				`		if err := f.Sync(); err != nil {
			return segs, failed`,
				`		if err := error(nil); err != nil {
			return segs, failed`,
			},
		},
		seeds: 4000, trace: "TestTraceKilledBeforeSync",
	},
	{
		rule: "J3", leaves: "the page cache is not dropped",
		edits: []edit{
			{
				"journal/recover.go",
				`		if err := f.DropCache(); err != nil {
			return segs, err`,
				`		if err := error(nil); err != nil {
			return segs, err`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "J3", leaves: "a lost synced block is cut as a torn tail",
		edits: []edit{
			{
				"journal/recover.go",
				`		if e.promise > v.last {`,
				`		if false {`,
			},
		},
		trace: "TestTraceLostPrepareIsNotNever",
	},
	{
		rule: "J3", leaves: "an idle journal is not sealed",
		edits: []edit{
			{
				"journal/log.go",
				`	h := header{id: l.id, first: l.synced + 1}
	block :=`,
				`	if true {
		return nil
	}
	h := header{id: l.id, first: l.synced + 1}
	block :=`,
			},
		},
		trace: "TestTraceLostPrepareIsNotNever",
	},
	{
		rule: "J6", leaves: "a rename's directory is not synced",
		edits: []edit{
			{
				"journal/segment.go",
				`	return m.syncDir()
}

func (m *files) remove`,
				`	return nil
}

func (m *files) remove`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "J1", leaves: "a segment is not zeroed durably before it is used",
		edits: []edit{
			{
				"journal/segment.go",
				`		if err := f.Sync(); err != nil {
			return failed("sync", name, err)`,
				`		if err := error(nil); err != nil {
			return failed("sync", name, err)`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "J1", leaves: "a block is not padded to a page",
		edits: []edit{
			{
				"journal/block.go",
				"func roundUp(n int64) int64 { return (n + pageSize - 1) / pageSize * pageSize }",
				"func roundUp(n int64) int64 { return (n + 511) / 512 * 512 }",
			},
		},
		test: "./journal TestTornTail",
	},
	{
		rule: "J1", leaves: "a block counts wherever its records begin",
		edits: []edit{
			{
				"journal/scan.go",
				`		if err == nil && next != 0 && h.first != next {`,
				`		if false {`,
			},
		},
		test: "./journal TestFirstSegmentBeginsWithOne",
	},
	{
		rule: "J4", leaves: "a recycled segment's old blocks count",
		edits: []edit{
			{
				"journal/block.go",
				`
		le.Uint64(b[24:]) != p.segment || le.Uint32(b[48:]) != p.page {`,
				" le.Uint32(b[48:]) != p.page {",
			},
		},
		test: "./journal TestBlockNoticesEveryBit",
	},
	{
		rule: "J5", leaves: "a payload's checksum is not verified",
		edits: []edit{
			{
				"journal/block.go",
				`	if crc32.Checksum(payload, castagnoli) != h.sum {`,
				`	if false {`,
			},
		},
		seeds: 4000, test: "./journal TestFlipAnywhere",
	},
	{
		rule: "P12", leaves: "a failed sync is tried again",
		edits: []edit{
			{
				"journal/log.go",
				`	if err := l.active().file.Sync(); err != nil {
		return l.fail("sync", l.active(), err)
	}
	l.stats.Syncs++`,
				`	if err := l.active().file.Sync(); err != nil {
		if err = l.active().file.Sync(); err != nil {
			return l.fail("sync", l.active(), err)
		}
	}
	l.stats.Syncs++`,
			},
		},
		seeds: 4000, trace: "TestTraceFailedSync",
	},
	{
		rule: "S3", leaves: "segments are cut that the checkpoint has not passed",
		edits: []edit{
			{
				"journal/grow.go",
				`	for len(l.segs) > 1 && l.segs[0].last < below {`,
				`	for len(l.segs) > 1 && l.segs[0].first < below {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "J1, J4", leaves: "neither segment numbers nor first LSNs tell old blocks",
		edits: []edit{
			{
				"journal/block.go",
				`
		le.Uint64(b[24:]) != p.segment || le.Uint32(b[48:]) != p.page {`,
				" le.Uint32(b[48:]) != p.page {",
			},
			{
				"journal/scan.go",
				`		if err == nil && next != 0 && h.first != next {`,
				`		if false {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "J3", leaves: "a damaged block is cut, whatever follows",
		edits: []edit{
			{
				"journal/recover.go",
				`		if i > 0 && (i > v.active+1 || v.chains[v.active].first == 0) {`,
				`		if false {`,
			},
		},
		test: "./journal TestFlipAnywhere",
	},
	{
		rule: "J6", leaves: "a removed segment's directory is not synced",
		edits: []edit{
			{
				"journal/segment.go",
				`	if err := m.syncDir(); err != nil {
		return err
	}
	if err := s.file.Close()`,
				`	if err := s.file.Close()`,
			},
		},
		test: "./journal TestCutOverPowerLoss",
	},
	{
		rule: "P13, S3", leaves: "the segment of the newest record is cut",
		edits: []edit{
			{
				"journal/grow.go",
				`		if next.first == 0 || next.first > l.synced {`,
				`		if next.first == 0 && false {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "J3, J1", leaves: "a block does not say what was synced",
		edits: []edit{
			{
				"journal/log.go",
				`uint32(a.used/pageSize), l.synced
`,
				`uint32(a.used/pageSize), min(l.synced, 1)
`,
			},
		},
		test: "./journal TestFlipAnywhere",
	},
}
