package main

// leaseMutants leave out what leases need (F7, F9, F10): mounts that answer from what
// they keep notice.
var leaseMutants = []mutant{
	leasing("F9", "the reply to a change waits for nobody", "coordinator/commit/lease.go",
		"	if !m.blocked(rep.Request.Transact.Op.Session, number) {", "	if m != nil {", 400, 16),
	leasing("F9", "who was told something has forgotten it", "coordinator/commit/lease.go",
		"if id != s && l.told > 0 && l.acked < number {", "if id != s && l.told > 0 && l.told < number {", 400, 28),
	leasing("F9", "who has not said that it has forgotten everything is not waited for", "coordinator/commit/lease.go",
		"if id != s && l.told > 0 && l.acked < number {", "if id != s && l.acked > 0 && l.acked < number {", 2000, 909),
	leasing("F9", "a lease counts from the last tick", "coordinator/commit/lease.go",
		"m.now+max(lag, 0)+leaseHeld)", "m.now+leaseHeld)", 2000, 1234),
	leasing("F9", "a lease ends here before it ends there", "coordinator/commit/lease.go",
		"leaseHeld = wire.Lease + wire.Lease/10", "leaseHeld = wire.Lease - wire.Lease/10", 4000, 208),
	leasing("F9", "an answer that was lost is not given again", "coordinator/commit/lease.go",
		"	for n := l.acked + 1; n <= m.leases.number && !out.Touched.Wide; n++ {", "	for n := max(l.acked, l.told) + 1; n <= m.leases.number && !out.Touched.Wide; n++ {", 2000, 389),
	leasing("F10", "the next reign waits for no earlier lease", "coordinator/commit/lease.go",
		"		m.leases.before[id] = m.now + leaseHeld", "		m.leases.before[id] = m.now", 4000, 142),
	leasing("F9", "of its own change a mount hears by its answer alone, whoever goes on from it", "coordinator/commit/lease.go",
		" || out.Touched.Meets(p.touched) {", " {", 4000, 2486),
	{
		rule: "F10", leaves: "an earlier lease is over when its session asks",
		edits: []edit{{
			"coordinator/commit/lease.go", "	case l == nil:\n		l = m.grant(id)",
			"	case l == nil:\n		delete(m.leases.before, id)\n		l = m.grant(id)",
		}},
		test: "./coordinator/commit TestLeaseOverRestart",
	},
	{
		rule: "F9", leaves: "the answer to its own change tells a mount of nothing that this went on from",
		edits: []edit{{"coordinator/commit/lease.go", "		if p.session != s && out.Meets(p.touched) {", "		if p.session != s && m == nil {"}},
		test:  "./coordinator/commit TestLeaseOwnChangeOfAnothers",
	},
	leasing("F10", "a fenced session's link goes on", "coordinator/commit/session.go",
		"		m.links++\n		s.link = m.links\n		m.dropQueued(id)\n	}\n	return m.last", "		m.dropQueued(id)\n	}\n	return m.last", 400, 3),
	{
		rule: "F7", leaves: "who is asked about a file is not waited for",
		edits: []edit{
			{"coordinator/commit/orphans.go", "	if u.waits == 0 && !u.due && !m.stays(ino, u) {", "	if !u.due && !m.stays(ino, u) {"},
			{"coordinator/commit/orphans.go", "		if u.due = false; u.waits > 0 {", "		if u.due = false; m == nil {"},
		},
		seeds: 4000, hint: 20, tune: "leasing",
	},
	leasing("F7", "that a session has a file open does not count", "coordinator/commit/orphans.go",
		"		if slices.Contains(holds, ino) {", "		if len(holds) > 1<<20 {", 400, 20),
}

func leasing(rule, leaves, file, before, after string, seeds int, hint uint64) mutant {
	tune := "leasing"
	if rule == "F10" && file == "coordinator/commit/lease.go" {
		tune = "reigning"
	}
	return mutant{rule: rule, leaves: leaves, edits: []edit{{file, before, after}}, seeds: seeds, hint: hint, tune: tune}
}
