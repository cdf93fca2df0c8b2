package main

// voteMutants leave out what participant/vote keeps: locks, votes, what is remembered.
var voteMutants = []mutant{
	{
		rule: "G5", leaves: "an operation that is done is done again",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if found { // before`,
				`	if found && false { // before`,
			},
		},
		seeds: 4000, trace: "TestTraceRetriedUnlink",
	},
	{
		rule: "G5, P2", leaves: "the op id is looked for after locks and validation",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if found { // before`,
				`	b, body, err := m.consider(e, at)
	if found && err == nil { // before`,
			},
			{
				"participant/vote/machine.go",
				`		return out, nil
	}
	b, body, err := m.consider(e, at)
	if err == nil {`,
				`		return out, nil
	}
	if err == nil {`,
			},
		},
		seeds: 4000, trace: "TestTraceDupBeforeLocks",
	},
	{
		rule: "P1", leaves: "the components of a path are not locked",
		edits: []edit{
			{
				"participant/vote/resolve.go",
				`	if err := o.need(entryKey(dir, name), false, at); err != nil {
		return named{}, err
	}
	if e :=`,
				`	if e :=`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P1", leaves: "contents are written without the inode's lock",
		edits: []edit{
			{
				"participant/vote/bind.go",
				`	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Ctime: b.changeTime(m, f.node)}
	return b.content(`,
				`	if err := version(m, f.node); err != nil {
		return err
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Ctime: b.changeTime(m, f.node)}
	return b.content(`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P1", leaves: "rmdir does not lock the directory",
		edits: []edit{
			{
				"participant/vote/bind.go",
				`	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	if f.node.Attr.Size`,
				`	if err := version(m, f.node); err != nil {
		return err
	}
	if f.node.Attr.Size`,
			},
		},
		seeds: 8000, tune: "moving",
	},
	{
		rule: "P1", leaves: "moves of directories do not exclude each other",
		edits: []edit{
			{
				"participant/vote/locks.go",
				`			s.add(lockKey{kind: lockDirRename}, true)`,
				`			s.add(inodeKey(b.Ino), false)`,
			},
			{
				"participant/vote/bind.go",
				`	if err := b.need(lockKey{kind: lockDirRename}, true, m.At); err != nil {
		return err
	}
`,
				"",
			},
		},
		seeds: 8000, tune: "moving",
	},
	{
		rule: "P1, P7", leaves: "a redo takes no locks",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	out := m.install(r)
	if r.Kind == KindPrepare {
`,
				`	out := m.install(r)
	if r.Kind == KindPrepare {
		t := m.txs[r.Tx.ID]
		for k := range t.locks {
			m.locks.release(t.id, k)
		}
		t.locks = nil
`,
			},
		},
		seeds: 4000, hint: 486,
	},
	{
		rule: "G4", leaves: "a version that has to be there is not asked for",
		edits: []edit{
			{
				"participant/vote/bind.go",
				`	if m.IfVersion == 0 || n != nil`,
				`	if true || n != nil`,
			},
		},
		seeds: 4000, hint: 158,
	},
	{
		rule: "P2", leaves: "a YES's record is lazy",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	out.Record, out.Force = raw, true
`,
				`	out.Record, out.Force = raw, false
`,
			},
		},
		test: "./participant TestOneForcedSyncPerCommit",
	},
	{
		rule: "P2", leaves: "YES leaves at once",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	out.SendAfterSync = []wire.Vote{{Index: at.Index, Tx: p.Tx, Verdict: wire.VoteYes`,
				`	out.Send = []wire.Vote{{Index: at.Index, Tx: p.Tx, Verdict: wire.VoteYes`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P2", leaves: "a NO leaves no record",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	mark.Kind, mark.Err = KindNo, refusal
	out := m.step(&mark, false)
`,
				`	mark.Kind, mark.Err = KindNo, refusal
	out := m.step(&mark, false)
	out.Record = nil
`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P2", leaves: "VOID leaves no position",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	return m.step(&Record{Kind: KindVoid, Position: at}, false)`,
				`	out := m.step(&Record{Kind: KindVoid, Position: at}, false)
	out.Record = nil
	return out`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P4", leaves: "who voted NO keeps no ABORT",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	case t == nil && id <= m.forgotten, t != nil && t.state == wire.TxAborted:`,
				`	case t == nil || t.state == wire.TxRefused, t != nil && t.state == wire.TxAborted:`,
			},
		},
		trace: "TestTraceAbortOfEvictedIsRevived", test: "./participant/vote TestScripts",
	},
	{
		rule: "P6", leaves: "an epoch of the same number may greet",
		edits: []edit{
			{
				"participant/vote/greet.go",
				`	case g.Epoch.Number < held.Number || g.Epoch.Number == held.Number && g.Epoch.Run != held.Run:`,
				`	case g.Epoch.Number < held.Number:`,
			},
		},
		seeds: 4000, hint: 185,
	},
	{
		rule: "P6", leaves: "older epochs may greet",
		edits: []edit{
			{
				"participant/vote/greet.go",
				`	case g.Epoch.Number < held.Number || g.Epoch.Number == held.Number && g.Epoch.Run != held.Run:`,
				`	case g.Epoch.Number == held.Number && g.Epoch.Run != held.Run:`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P9", leaves: "outcomes are forgotten beyond W",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`		if t.state != wire.TxPrepared && !m.w.Before(t.prepared) {`,
				`		if t.state != wire.TxPrepared {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P10", leaves: "what is known is prepared again",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if m.txs[p.Tx] != nil || p.Tx <= m.forgotten {`,
				`	if m.txs[p.Tx] != nil && false {`,
			},
		},
		test: "./participant/vote TestScripts", equivalent: "a stream is handled in its order, each entry once, so no PREPARE is known already; who joins anew will meet it",
	},
	{
		rule: "P10", leaves: "a NO is not voted again",
		edits: []edit{
			{
				"participant/vote/greet.go",
				`		case t.state == wire.TxRefused:
			v.Verdict = wire.VoteNo`,
				`		case t.state == wire.TxRefused:
			continue`,
			},
		},
		test: "./participant/vote TestScripts", equivalent: "the greeting tells of it too: both are left out below",
	},
	{
		rule: "S3", leaves: "a checkpoint drops what is in doubt",
		edits: []edit{
			{
				"participant/vote/snapshot.go",
				`		if t.state == wire.TxPrepared {
`,
				`		if t.state == wire.TxPrepared {
			continue
`,
			},
		},
		seeds: 4000, trace: "TestTraceCheckpointKeepsInDoubt",
	},
	{
		rule: "S3", leaves: "a checkpoint drops outcomes above W",
		edits: []edit{
			{
				"participant/vote/snapshot.go",
				`		b = appendItem(b, encodeItem(itemTx`,
				`		if t.state != wire.TxPrepared {
			continue
		}
		b = appendItem(b, encodeItem(itemTx`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3, P6", leaves: "the fence is not in the kv",
		edits: []edit{
			{
				"participant/vote/snapshot.go",
				`	m.fence, m.position, m.w, m.serviceTime = s.Fence, s.Position,`,
				`	m.position, m.w, m.serviceTime = s.Position,`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3", leaves: "the position is not in the kv",
		edits: []edit{
			{
				"participant/vote/snapshot.go",
				`	m.fence, m.position, m.w, m.serviceTime = s.Fence, s.Position, s.W, s.ServiceTime`,
				`	m.fence, m.w, m.serviceTime = s.Fence, s.W, s.ServiceTime`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3, P9", leaves: "W is not in the kv",
		edits: []edit{
			{
				"participant/vote/snapshot.go",
				`	m.fence, m.position, m.w, m.serviceTime = s.Fence, s.Position, s.W, s.ServiceTime`,
				`	m.fence, m.position, m.serviceTime = s.Fence, s.Position, s.ServiceTime`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S3, P13", leaves: "the config is not in the kv",
		edits: []edit{
			{
				"participant/vote/snapshot.go",
				`	if s.Config != nil {`,
				`	if false {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "S1a", leaves: "service time is not in the kv",
		edits: []edit{
			{
				"participant/vote/snapshot.go",
				`	m.fence, m.position, m.w, m.serviceTime = s.Fence, s.Position, s.W, s.ServiceTime`,
				`	m.fence, m.position, m.w = s.Fence, s.Position, s.W`,
			},
		},
		trace: "TestTraceServiceTimeGoesOn",
	},
	{
		rule: "S1a", leaves: "a request whose outcome may have expired runs",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if p.ServiceTime-p.Sent > wire.ServiceTimeHold {`,
				`	if false {`,
			},
		},
		seeds: 4000, tune: "outages", trace: "TestTraceRetryAfterExpiry",
	},
	{
		rule: "S1a", leaves: "a request is too old a moment early",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if p.ServiceTime-p.Sent > wire.ServiceTimeHold {`,
				`	if p.ServiceTime-p.Sent >= wire.ServiceTimeHold {`,
			},
		},
		trace: "TestTraceAgeOfARequest",
	},
	{
		rule: "P2, S3", leaves: "a stage of another epoch is taken",
		edits: []edit{
			{
				"participant/vote/bind.go",
				`	if c.Stage.Epoch() != b.prepare.Tx.Epoch() {`,
				`	if false {`,
			},
		},
		seeds: 4000,
	},
	{
		rule: "P2", leaves: "a stage is consumed by two transactions",
		edits: []edit{
			{
				"participant/vote/bind.go",
				`	if tx, taken := b.stages[c.Stage]; taken {`,
				`	if tx, taken := b.stages[c.Stage]; taken && false {`,
			},
		},
		trace: "TestTraceStageOfAnother",
	},
	{
		rule: "P2", leaves: "one transaction consumes a stage twice",
		edits: []edit{
			{
				"participant/vote/bind.go",
				`	if b.staged[c.Stage] {`,
				`	if false {`,
			},
		},
		trace: "TestTraceStageNamedTwice",
	},
	{
		rule: "W5", leaves: "two attempts of one operation are prepared at once",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	if id, ok := m.ops[p.Op]; ok {`,
				`	if id, ok := m.ops[p.Op]; ok && false {`,
			},
		},
		test: "./participant/vote TestScripts", equivalent: "the coordinator joins them (W5), and recovery decides before anything is put: both are left out below",
	},
	{
		rule: "S6", leaves: "a YES reserves no space",
		edits: []edit{
			{
				"participant/vote/machine.go",
				`	return m.view.Reserve(body.ID, rows, bytes, room, deletes)`,
				`	_, _ = rows, deletes
	return nil`,
			},
		},
		test: "./participant TestFullDisk",
	},
}
