package main

// extentMutants leave out what contents changed in place need.
var extentMutants = []mutant{
	{
		rule: "S3", leaves: "a staged extent is unlinked before the kv transaction",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`	failpoint.At("store.checkpoint-kv")
`,
				`	for _, id := range c.table.dead {
		c.s.unlink(id)
	}
	failpoint.At("store.checkpoint-kv")
`,
			},
		},
		test: "./participant/store TestCrashEverywhere",
	},
	{
		rule: "S3", leaves: "a checkpoint copies a staged extent over what came after it",
		edits: []edit{
			{
				"participant/store/apply.go",
				`			s.frozen.changeRange(c, false)
`,
				`			_ = c
`,
			},
		},
		test: "./participant/store TestCrashEverywhere",
	},
	{
		rule: "S2", leaves: "of a hole only the new bytes are written",
		edits: []edit{
			{
				"participant/store/extent.go",
				`			e.zero(start, from)
`,
				"",
			},
		},
		test: "./participant/store TestHoleIsWrittenWhole",
	},
	{
		rule: "S2", leaves: "what lay beyond a file's end comes back when it grows",
		edits: []edit{
			{
				"participant/store/extent.go",
				`		e.zero(valid, min(end, (last+1)*wire.BlockSize))
`,
				`		_ = last
`,
			},
		},
		test: "./participant/store TestHoleIsWrittenWhole",
	},
	{
		rule: "S2", leaves: "a stage that has become a file is written over its only checksums",
		edits: []edit{
			{
				"participant/store/aside.go",
				`	return s.putAside(id, st)
`,
				`	return nil
`,
			},
		},
		test: "./participant/store TestYoungObjectIsExtended",
	},
	{
		rule: "S2", leaves: "checksums aside that an earlier process has left are taken for whole",
		edits: []edit{
			{
				"participant/store/aside.go",
				`	s.objects.noteAside(id, false) // it may be torn`,
				`	s.objects.noteAside(id, true) // it may be torn`,
			},
		},
		seeds: 2000, hint: 81, tune: "extending",
		test: "./participant/store TestHalfAside",
	},
	{
		rule: "S2", leaves: "nothing is kept aside for a reader",
		edits: []edit{
			{
				"participant/store/reader.go",
				`			if !r.needs(b, max(from, start), min(to, start+wire.BlockSize)) {`,
				`			if r.needs(b, max(from, start), min(to, start+wire.BlockSize)) || true {`,
			},
		},
		test: "./participant/store TestReadDuringExtents",
	},
	{
		rule: "S2", leaves: "a read that comes while an apply is at work does not look again",
		edits: []edit{
			{
				"participant/store/reader.go",
				`	r.again = r.pin.writing
`,
				"",
			},
		},
		test: "./participant/store TestReadDuringAnApplyLooksAgain",
	},
	{
		rule: "P2", leaves: "an append's offsets are not bound",
		edits: []edit{
			{
				"participant/vote/extent.go",
				`		e.Offset += start
`,
				`		_ = start
`,
			},
		},
		seeds: 400,
	},
	{
		rule: "S5", leaves: "a stage for another place within a block is summed as if it were for this one",
		edits: []edit{
			{
				"participant/vote/extent.go",
				`	if b.view.Skew(e.Stage) == e.Offset%wire.BlockSize {`,
				`	if true {`,
			},
		},
		seeds: 2000,
	},
	{
		rule: "P2", leaves: "extents' stages belong to no prepare",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`		for k := range t.Bounds[i].Extents {`,
				`		for k := range 0 {`,
			},
		},
		test: "./participant/vote TestStagesOfExtents",
	},
}
