package main

// storeMutants leave out what participant/store keeps: durability in its order, op ids, checksums.
var storeMutants = []mutant{
	{
		rule: "S1", leaves: "a row that is not found is believed not to be there",
		edits: []edit{{"participant/store/boltkv.go", "	return nil, false, t.beside(b, key)\n", "	return nil, false, nil\n"}},
		test:  "./participant/store TestFlippedBitOfTheKV",
	},
	{
		rule: "S1", leaves: "a bucket that is gone is empty",
		edits: []edit{{"participant/store/boltkv.go", "		return nil, false, t.k.withoutBucket(t.tx, key[0])\n", "		return nil, false, nil\n"}},
		test:  "./participant/store TestLostBucketOfTheKV",
	},
	{
		rule: "S1", leaves: "what comes after a file with extended attributes has none either",
		edits: []edit{{"participant/store/xattr.go", "		run.to = be.Uint64([]byte(key[1:]))\n", "		if first := be.Uint64([]byte(key[1:])); first == uint64(ino) {\n			run.to = first\n		}\n"}},
		test:  "./participant/store TestNoXattrs",
	},
	{
		rule: "F9", leaves: "a file that has extended attributes says that it has none",
		edits: []edit{{"participant/store/xattr.go", "	return run.from < run.to, err\n", "	return true, err\n"}},
		seeds: 400, hint: 72, tune: "names",
	},
	{
		rule: "S1a", leaves: "outcomes are not kept",
		edits: []edit{
			{
				"participant/store/batch.go",
				`		b.put(opKey(tx.Op), encodeOp(tx.ServiceTime, &tx.Outcome), true)
`,
				"",
			},
		},
		seeds: 4000, trace: "TestTraceRetriedUnlink",
	},
	{
		rule: "S1a", leaves: "outcomes expire by wall time",
		edits: []edit{
			{
				"participant/store/batch.go",
				"b.expireOps(tx.ServiceTime - opsKeptMS)",
				"b.expireOps(tx.Time/1_000_000 - opsKeptMS)",
			},
			{
				"participant/store/batch.go",
				"opTimeKey(tx.ServiceTime, tx.Op)",
				"opTimeKey(tx.Time/1_000_000, tx.Op)",
			},
			{
				"participant/store/batch.go",
				"encodeOp(tx.ServiceTime, &tx.Outcome)",
				"encodeOp(tx.Time/1_000_000, &tx.Outcome)",
			},
		},
		seeds: 4000, tune: "outages", trace: "TestTraceOutageKeepsOutcomes",
	},
	{
		rule: "S1a", leaves: "outcomes are kept for half as long",
		edits: []edit{
			{
				"participant/store/batch.go",
				"const opsKeptMS = 2 * wire.ServiceTimeHold",
				"const opsKeptMS = wire.ServiceTimeHold / 2",
			},
		},
		seeds: 8000, tune: "ageing", trace: "TestTraceOutcomesAreKept",
	},
	{
		rule: "S1a", leaves: "the row goes with the hold, not twice that",
		edits: []edit{
			{
				"participant/store/batch.go",
				"const opsKeptMS = 2 * wire.ServiceTimeHold",
				"const opsKeptMS = wire.ServiceTimeHold",
			},
		},
		trace: "TestTraceOutcomesOutliveTheHold", test: "./participant/store TestReadOp",
	},
	{
		rule: "S1a", leaves: "outcomes expire that are not old enough",
		edits: []edit{
			{
				"participant/store/batch.go",
				"if key >= limit || len(times) == maxExpired {",
				"if len(times) == maxExpired {",
			},
		},
		trace: "TestCrashInExpiry",
	},
	{
		rule: "S1a", leaves: "an outcome expires but for its row",
		edits: []edit{
			{
				"participant/store/batch.go",
				`		_, op := opOfTimeKey(key)
		b.del(opKey(op))
`,
				"",
			},
		},
		trace: "TestCrashInExpiry",
	},
	{
		rule: "S1a", leaves: "outcomes that are new expire by wall time",
		edits: []edit{
			{
				"participant/store/batch.go",
				"b.expireOps(tx.ServiceTime - opsKeptMS)",
				"b.expireOps(tx.Time/1_000_000 - opsKeptMS)",
			},
		},
		trace: "TestCrashInExpiry",
	},
	{
		rule: "S1a", leaves: "an old request runs when its outcome has expired",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if p.ServiceTime-p.Sent > wire.ServiceTimeHold {`,
				`	if p.ServiceTime-p.Sent > 3*wire.ServiceTimeHold {`,
			},
		},
		trace: "TestCrashInExpiry",
	},
	{
		rule: "W5", leaves: "an unanswered operation's outcome is forgotten",
		edits: []edit{
			{
				"participant/store/batch.go",
				"op.Seq >= tx.Lowest {",
				"op.Seq > tx.Lowest {",
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "objects are unlinked at the apply",
		edits: []edit{
			{
				"participant/store/stage.go",
				`	s.active.dead = append(s.active.dead, id)`,
				`	s.removeFile(id)`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "a stage is unlinked at the ABORT",
		edits: []edit{
			{
				"participant/store/stage.go",
				`			s.kill(id, st.size)
`,
				`			_ = st
			s.removeFile(id)
			s.objects.become(id, 0, 0, nil)
`,
			},
		},
		test: "./participant/store TestCrashEverywhere", equivalent: "an ABORT that was put stays one at every recovery that asks all members, so no COMMIT looks for the stage; an eviction of who refused it will need it",
	},
	{
		rule: "S3", leaves: "a checkpoint does not sync objects",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`		if err := f.Sync(); err != nil {`,
				`		if err := error(nil); err != nil && f != nil {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "a checkpoint does not sync objects' directories",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`		if err := c.s.fs.SyncDir(names[i]); err != nil {`,
				`		if err := error(nil); err != nil {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "the kv commits before objects are durable",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`	if err := c.syncObjects(); err != nil {
		return err
	}
	failpoint.At("store.checkpoint-kv")
	if err := c.writeKV(); err != nil {
		return err
	}`,
				`	if err := c.writeKV(); err != nil {
		return err
	}
	failpoint.At("store.checkpoint-kv")
	if err := c.syncObjects(); err != nil {
		return err
	}`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "the kv commits before the journal is durable",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`	if err := syncJournal(); err != nil {
		return c.s.fail("sync", "journal", err)
	}
	failpoint.At("store.checkpoint-objects")`,
				`	failpoint.At("store.checkpoint-objects")`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "objects are unlinked before the kv has committed",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`	if err := c.writeKV(); err != nil {
		return err
	}
	failpoint`,
				`	for _, id := range c.table.dead {
		c.s.unlink(id)
	}
	if err := c.writeKV(); err != nil {
		return err
	}
	failpoint`,
			},
		},
		seeds: 4000, tune: "overwriting",
	},
	{
		rule: "S3", leaves: "a redo begins a record early",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`	s.counts.Applied = uint64(applied)`,
				`	s.counts.Applied = uint64(max(applied, 1) - 1)`,
			},
		},
		seeds: 4000, trace: "TestTraceCheckpointResurrectsNothing",
	},
	{
		rule: "S3", leaves: "the kv is not synced before it is believed",
		edits: []edit{
			{
				"participant/store/modelkv.go",
				"{f.Sync, func() error { return fsys.SyncDir(dir) }, f.DropCache, k.load}",
				"{func() error { return fsys.SyncDir(dir) }, k.load}",
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "a kv transaction is not synced",
		edits: []edit{
			{
				"participant/store/modelkv.go",
				`	if err := k.file.Sync(); err != nil {
		return fmt.Errorf`,
				`	if err := error(nil); err != nil {
		return fmt.Errorf`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P2", leaves: "a stage is not synced",
		edits: []edit{
			{
				"participant/store/stage.go",
				`	if err := st.file.Sync(); err != nil {`,
				`	if err := error(nil); err != nil {`,
			},
		},
		seeds: 4000, trace: "TestTraceStageIsDurable",
	},
	{
		rule: "P2", leaves: "a stage's name is not synced",
		edits: []edit{
			{
				"participant/store/stage.go",
				`	if err := st.s.fs.SyncDir(st.s.objectDir(st.id)); err != nil {`,
				`	if err := error(nil); err != nil {`,
			},
		},
		seeds: 4000, trace: "TestTraceStageIsDurable",
	},
	{
		rule: "P12", leaves: "a failed sync of a stage is no failure",
		edits: []edit{
			{
				"participant/store/stage.go",
				`	if err := st.file.Sync(); err != nil {`,
				`	_ = st.file.Sync()
	if err := error(nil); err != nil {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S5", leaves: "a read does not verify contents",
		edits: []edit{
			{
				"participant/store/reader.go",
				`	if wire.Sum(buf[:wire.BlockSize]) != check.sum {`,
				`	if false {`,
			},
		},
		test: "./participant/store TestRottenObject",
	},
	{
		rule: "S1", leaves: "a row's checksum is not verified",
		edits: []edit{
			{
				"participant/store/rows.go",
				`	if n < 0 || rowSum(key, sealed[:n]) != be.Uint32(sealed[n:]) {`,
				`	if n < 0 {`,
			},
		},
		test: "./participant/store TestDamagedKV",
	},
	{
		rule: "S5", leaves: "the checksum of a block that is cut, or written in part, is taken unverified",
		edits: []edit{
			{
				"participant/store/aside.go",
				"		err = r.block(block, into[:wire.BlockSize])\n",
				"		_ = r.block(block, into[:wire.BlockSize])\n",
			},
		},
		test: "./participant/store TestRottenObject",
	},
	{
		rule: "W5", leaves: "a read goes on in another version of its file",
		edits: []edit{
			{
				"participant/store/read.go",
				`	case version != 0 && version != o.n.attr.Version:`,
				`	case false:`,
			},
		},
		test: "./participant/store TestReadFile",
	},
	{
		rule: "P12", leaves: "a failed sync of the kv is tried again",
		edits: []edit{
			{
				"participant/store/checkpoint.go",
				`	if err != nil && writeNoSpace(err) && s.dropBallast(`,
				`	if err != nil && s.dropBallast(`,
			},
		},
		test: "./participant/store TestFailedSync",
	},
	{
		rule: "S3", leaves: "a sweep takes what a row has let go of since its last checkpoint",
		edits: []edit{
			{
				"participant/store/stage.go",
				`known && info.state != stateStaged {
				continue
			}
			named, err`,
				`known && info.state == stateStaging {
				continue
			}
			named, err`,
			},
		},
		test: "./participant/store TestSweepBesideAnApply",
	},
	{
		rule: "S5", leaves: "a block whose file does not open for want of descriptors is bad",
		edits: []edit{
			{
				"participant/store/aside.go",
				`		return 0, false, err
	}
}

// Room`,
				`		return 0, true, nil
	}
}

// Room`,
			},
		},
		test: "./participant/store TestNoDescriptorsIsNoRot",
	},
	{
		rule: "S5", leaves: "a checkpoint gives up a staged extent that does not open for want of descriptors",
		edits: []edit{
			{
				"participant/store/ranges.go",
				"				if ofProcess(err) {",
				"				if false {",
			},
		},
		test: "./participant/store TestNoDescriptorsLosesNoStage",
	},
	{
		rule: "S5", leaves: "a redo that lacks descriptors calls the store damaged",
		edits: []edit{
			{
				"participant/store/apply.go",
				`	case ofProcess(err):
		return nil, s.fail("open", s.objectPath(id), err)
`,
				"",
			},
		},
		test: "./participant/store TestNoDescriptorsIsNoDamage",
	},
	{
		rule: "S6", leaves: "a full disk ends who puts checksums aside for a vote",
		edits: []edit{
			{
				"participant/store/aside.go",
				"0); isFull(err) {",
				"0); false {",
			},
			{
				"participant/store/aside.go",
				`	if isFull(err) {
		return s.space.refuse("", "the disk is full")
	}
	if ofProcess(err) {`,
				"	if ofProcess(err) {",
			},
		},
		test: "./participant/store TestPreserveOnFullDisk",
	},
	{
		rule: "S2", leaves: "space is allocated beyond the greatest size of a file",
		edits: []edit{
			{
				"participant/store/extent.go",
				"min(end*wire.BlockSize, wire.MaxFileSize)\n",
				"end * wire.BlockSize\n",
			},
		},
		test: "./participant/store TestAllocateAtTheGreatestSize",
	},
	{
		rule: "S6", leaves: "files that are promised are not counted",
		edits: []edit{
			{
				"participant/store/space.go",
				"s.space.files += need.files",
				"s.space.files += 0",
			},
		},
		test: "./participant/store TestNoMoreFiles",
	},
	{
		rule: "S6", leaves: "each mutation is counted as a file",
		edits: []edit{
			{
				"participant/store/space.go",
				"min(int64(rows)/rowsPerFile, bytes/int64(s.o.InlineMax)+room/wire.BlockSize)",
				"int64(rows) / rowsPerFile",
			},
		},
		test: "./participant/store TestRowsAreNoFiles",
	},
	{
		rule: "S6", leaves: "a vote makes a file of those that are promised",
		edits: []edit{
			{
				"participant/store/aside.go",
				"err == nil && left <= 0 {",
				"err == nil && left < -1<<40 {",
			},
		},
		test: "./participant/store TestPreserveLeavesPromisedFiles",
	},
	{
		rule: "S5", leaves: "a vote that cannot make a file for want of descriptors ends its participant",
		edits: []edit{
			{
				"participant/store/aside.go",
				"	if ofProcess(err) {\n		return unread(err)\n	}\n",
				"",
			},
		},
		test: "./participant/store TestPreserveWithoutDescriptors",
	},
	{
		rule: "S6", leaves: "a newcomer takes no space for what is allocated",
		edits: []edit{
			{
				"participant/store/adopt.go",
				"checks[i+n].state == blockUnwritten {",
				"checks[i+n].state > blockUnwritten {",
			},
		},
		test: "./participant/store TestResyncReservesSpace",
	},
	{
		rule: "W5", leaves: "a change forgets all that its session has had, however much",
		edits: []edit{
			{
				"participant/store/batch.go",
				"len(times) == maxForgotten ||",
				"len(times) < 0 ||",
			},
		},
		test: "./participant/store TestOutcomesAreForgottenInParts",
	},
}
