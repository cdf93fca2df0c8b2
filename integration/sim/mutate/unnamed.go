package main

// unnamedMutants leave out what keeps names, attributes and files without a
// name right.
var unnamedMutants = []mutant{
	{
		rule: "F7", leaves: "a held file goes with its last name",
		edits: []edit{
			{
				"participant/store/batch.go",
				`n.attr.Nlink <= 1 && !d.Hold && !tx.Keeps(n.attr.Ino) {`,
				`n.attr.Nlink <= 1 {`,
			},
		},
		seeds: 2000, tune: "names",
	},
	{
		rule: "F7", leaves: "a reclaim does not look whether the file has got a name",
		edits: []edit{
			{
				"participant/vote/names.go",
				`bd := Bound{Kind: m.Kind, Ino: f.ino, Orphan: f.node.Attr.Nlink == 0}`,
				`bd := Bound{Kind: m.Kind, Ino: f.ino, Orphan: true}`,
			},
		},
		test: "./participant/vote TestScripts",
	},
	{
		rule: "F7", leaves: "a file that gets its first name stays an orphan",
		edits: []edit{
			{
				"participant/store/names.go",
				`	if d.Orphan {
		b.del(orphanKey(d.Ino))
	}
`,
				"",
			},
		},
		seeds: 4000, tune: "names",
	},
	{
		rule: "F7", leaves: "a file without a name is reclaimed while its session is there",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`	return m.sessions[s] != nil || h != nil`,
				`	return h != nil`,
			},
		},
		seeds: 2000, tune: "names",
	},
	{
		rule: "F7", leaves: "after a restart no session has time to come back",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`		until := m.now + m.idle(reply.Holders[i])
`,
				`		until := int64(0)
`,
			},
		},
		test: "./coordinator/commit TestOrphansAfterRestart",
	},
	{
		rule: "F7", leaves: "a dead mount is remembered for as long as any client",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`		return m.o.WatcherIdle`,
				`		return m.o.SessionIdle`,
			},
		},
		test: "./coordinator/commit TestHeldByWhoDied",
	},
	{
		rule: "F7", leaves: "any client is remembered for no longer than a mount",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`	return m.o.SessionIdle`,
				`	return m.o.WatcherIdle`,
			},
		},
		test: "./coordinator/commit TestHeldByWhoDied",
	},
	{
		rule: "F7", leaves: "a mount that was forgotten, and is back, is asked nothing",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`	a.inos = slices.Sorted(maps.Keys(o.inodes))
`,
				"",
			},
		},
		test: "./coordinator/commit TestForgottenIsAskedAnew",
	},
	{
		rule: "F7", leaves: "a client's reclaim that has waited does not ask who has come meanwhile",
		edits: []edit{
			{
				"coordinator/commit/queue.go",
				`		if r.releases != 0 { // others`,
				`		if r.releases != 0 && false { // others`,
			},
		},
		test: "./coordinator/commit TestForgottenIsAskedAnew",
	},
	{
		rule: "F4", leaves: "a change's own time counts however old it is",
		edits: []edit{
			{
				"wire/mutation.go",
				` && tx-m.Ctime <= MaxCtimeOff {`,
				` {`,
			},
		},
		test: "./wire TestChangeTime",
	},
	{
		rule: "F4", leaves: "a client's clock may be ahead of the coordinator's",
		edits: []edit{
			{
				"wire/mutation.go",
				` && m.Ctime <= tx && `,
				` && `,
			},
		},
		test: "./wire TestChangeTime",
	},
	{
		rule: "F4", leaves: "what a file's ctime was counts when a change is applied",
		edits: []edit{
			{
				"participant/store/rows.go",
				`	n.touch(cmp.Or(d.Ctime, tx.Time), contents)`,
				`	m := wire.Mutation{Ctime: d.Ctime}
	n.touch(cmp.Or(m.ChangeTime(n.attr.Ctime, tx.Time)), contents)`,
			},
		},
		test: "./participant/store TestTimesInAnyOrder",
	},
	{
		rule: "F4", leaves: "whether an mtime is to come is told by the ctime that there is when it is set",
		edits: []edit{
			{
				"participant/store/rows.go",
				`n.attr.Mtime, n.later = mtime, mtime > t }`,
				`n.attr.Mtime, n.later = mtime, mtime > n.attr.Ctime }`,
			},
		},
		test: "./participant/store TestTimesToCome",
	},
	{
		rule: "F7", leaves: "after a restart who has detached is waited for",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`		if m.orphans.left[reply.Holders[i]] {`,
				`		if m.orphans.left[reply.Holders[i]] && false {`,
			},
		},
		trace: "TestTraceDetachDuringTheList", test: "./coordinator/commit TestOrphansOfWhoLeftDuringTheList",
	},
	{
		rule: "F7", leaves: "after a restart who has detached, and is back, is not waited for",
		edits: []edit{
			{
				"coordinator/commit/session.go",
				`	delete(m.orphans.left, id)
`,
				"",
			},
		},
		test: "./coordinator/commit TestOrphansOfWhoIsBackAndForgotten",
	},
	{
		rule: "F7", leaves: "a new coordinator does not ask what has no name",
		edits: []edit{
			{
				"coordinator/commit/recover.go",
				`	m.listOrphans(0)
`,
				"",
			},
		},
		seeds: 4000, tune: "names",
	},
	{
		rule: "F7", leaves: "only the first page of what has no name is read",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`	if reply.More && n > 0 {`,
				`	if reply.More && n > 0 && false {`,
			},
		},
		seeds: 8000, tune: "names", test: "./coordinator/commit TestOrphansAfterRestart",
	},
	{
		rule: "F7", leaves: "a reclaim that was refused is not tried again",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`		o.due = append(o.due, dueOrphan{r.reclaims, m.now + reclaimPause})
`,
				"",
			},
		},
		test: "./coordinator/commit TestReclaimAgain",
	},
	{
		rule: "F7", leaves: "what another session holds by now is reclaimed all the same",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`	i := slices.IndexFunc(u.holders, m.kept)
	if i < 0 {`,
				`	i := slices.IndexFunc(u.holders, m.kept)
	if i < 0 || true {`,
			},
		},
		test: "./coordinator/commit TestOrphans",
	},
	{
		rule: "F7", leaves: "a file whose session is back before its reclaim is forgotten",
		edits: []edit{
			{
				"coordinator/commit/orphans.go",
				`!slices.Contains(h.inos, ino) {
		h.inos = append(h.inos, ino)`,
				`!slices.Contains(h.inos, ino) {`,
			},
		},
		test: "./coordinator/commit TestOrphansOfWhoIsBackAndLast",
	},
	{
		rule: "F7", leaves: "clients reclaim by a pack",
		edits: []edit{
			{
				"participant/vote/pack.go",
				`b.mutations[i].Kind == wire.MutReclaim {`,
				`b.mutations[i].Kind == wire.MutReclaim && false {`,
			},
		},
		test: "./participant/vote TestPackReclaimsNothing",
	},
	{
		rule: "P1", leaves: "an exchange locks one of its two names",
		edits: []edit{
			{
				"participant/vote/locks.go",
				`		s.add(entryKey(b.ToDir, b.ToName), true)
`,
				`		if !b.Exchange {
			s.add(entryKey(b.ToDir, b.ToName), true)
		}
`,
			},
		},
		test: "./participant/vote TestScripts",
	},
	{
		rule: "P1", leaves: "an exchange moves the second directory into itself",
		edits: []edit{
			{
				"participant/vote/names.go",
				`	if toDir {
		if err := b.moveDir`,
				`	if toDir && !fromDir {
		if err := b.moveDir`,
			},
		},
		test: "./participant/vote TestScripts",
	},
	{
		rule: "P1", leaves: "link does not lock the file",
		edits: []edit{
			{
				"participant/vote/names.go",
				`	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	if m.To.Path == "" {`,
				`	if err := version(m, f.node); err != nil {
		return err
	}
	if m.To.Path == "" {`,
			},
		},
		seeds: 4000, tune: "names",
	},
	{
		rule: "S1", leaves: "extended attributes outlive their file",
		edits: []edit{
			{
				"participant/store/batch.go",
				`	if d.Xattrs > 0 {`,
				`	if d.Xattrs > 0 && false {`,
			},
		},
		test: "./participant/store TestRandomHistories",
	},
	{
		rule: "S1", leaves: "digests leave extended attributes out",
		edits: []edit{
			{
				"participant/store/digest.go",
				`bucketSum, bucketXattr, bucketOrphan}`,
				`bucketSum, bucketOrphan}`,
			},
		},
		test: "./participant/store TestDigestCoversAll",
	},
	{
		rule: "S3", leaves: "a transaction's space does not count the attributes that go",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`		rows += 6 + b.Xattrs
`,
				`		rows += 6
`,
			},
		},
		test: "./participant/vote TestReservedRows",
	},
}
