package main

// scrubMutants leave out what scrubs, and who catches up after one, must do (S5b, P11).
var scrubMutants = []mutant{
	scrubbing("a scrub's verdict counts for its coordinator alone", "coordinator/scrubtime.go",
		"s.book = kept\n", "s.book = kept\n		s.book.Renew = nil\n", "TestScrubVerdictOutlivesTheCoordinator"),
	scrubbing("a verdict that cannot be read was none", "coordinator/scrub/book.go",
		"(all || b.Lost)", "all", "TestScrubOfWhatCannotBeRead"),
	scrubbing("a comparison without a majority ends a verdict", "coordinator/scrub/verdict.go",
		"			v.Unsure = append(v.Unsure, name)\n", "			v.Unsure = append(v.Unsure, name)\n			v.Right = append(v.Right, name)\n", "TestScrubVerdictStays"),
	scrubbing("who was found wrong gives others all it has", "coordinator/read.go",
		"doubt := 2 * c.doubt(i)", "doubt := 0", "TestScrubVerdictStays"),
	scrubbing("who catches up ends a verdict that came meanwhile", "coordinator/rejoin.go",
		"err == nil && r.whole && c", "err == nil && c", "TestScrubVerdictDuringACatchUp"),
	scrubbing("who was found wrong as another one gives others all it has", "coordinator/scrub/verdict.go",
		"case m.undecided[i] || m.bad[i] ||", "case m.undecided[i] ||", "TestScrubOfTwoThatAreWrong"),
	scrubbing("who was found wrong and is in sync stays as it is", "coordinator/scrub/book.go",
		" || slices.ContainsFunc(b.Renew, in) {", " {", "TestScrubVerdictOutlivesTheCoordinator"),
	scrubbing("who is evicted since its rows are wrong compares what has changed", "coordinator/scrubtime.go",
		"return s.book.ComparesAll(c.peers[i].called())", "return false", "TestScrubOfRowsThatDiffer|TestScrubVerdictOutlivesTheCoordinator"),
	scrubbing("whom a scheduled scrub has missed is not made up for", "coordinator/scrub/book.go",
		"return names, len(names) > 0", "return names, false", "TestScrubSchedule"),
	scheduled(deciding("two that are wrong get everything anew, maybe from each other", "verdict", "case len(m.renews) > 1:", "case false:", "TestJudge")),
	scheduled(deciding("who is wrong gets everything anew from those of whom nobody knows who is right", "verdict", "	case slices.Contains(m.undecided, true):\n", "	case false:\n", "TestJudge")),
	deciding("who came in the middle of a comparison gives everything to who is wrong", "verdict", "case half || !m.all:", "case !m.all:", "TestOneThatComesBack"),
	deciding("others' checksums do not matter to who gets everything anew", "verdict", "	case m.sums:\n", "	case false:\n", "TestJudge"),
	deciding("most are right about checksums, too", "machine", "majority := !sums && slices", "majority := slices", "TestJudge"),
	deciding("who is evicted for a scrub is so before a restart would know why", "verdict", "			m.phase++\n", "			if m.phase++; m.phase == condemning {\n				m.phase++\n			}\n", "TestRenewalThatFails"),
	deciding("a row that one has too much is none", "machine", "	if len(says) == 1 {\n", "	if len(says) == 1 || len(says) == 2 && len(says[\"\"]) > 0 {\n", "TestJudge"),
	deciding("digests that differ are not looked into", "machine", "		m.req.Rows, m.tries, m.last = true, 0, errNever\n		return\n", "", "TestJudge"),
	{rule: "S5b", leaves: "a verdict never ends", edits: []edit{{"coordinator/scrub/book.go", "		b.Renewed(name)\n", "		_ = name\n"}}, test: "./coordinator TestScrubVerdictOutlivesTheAdmission"},
	scrubbing("damage is one finding each time it is told", "coordinator/scrub/machine.go",
		" && !m.damaged[i] {", " {", "TestScrubAsksAgain"),
	scrubbing("who could not be asked for a moment was not compared", "coordinator/scrub/machine.go",
		"		m.failed[i] = err\n", "		m.failed[i] = err\n		m.problem(i, err)\n", "TestScrubAsksAgain"),
	scrubbing("a last round that nobody's writes wait for is given up as any other", "coordinator/commit/pace.go",
		"return lastRound << min(late, mostLastRounds)", "return lastRound", "TestLastRoundOfASlowDisk"),
	scrubbing("a last round takes longer and longer while writes wait", "coordinator/commit/pace.go",
		"	if m.enough() {\n		return lastRound\n", "	if late < 0 {\n		return lastRound\n", "TestLastRoundOfASlowDisk"),
	{rule: "P11", leaves: "a last round begins however much changes meanwhile", edits: []edit{{"coordinator/rejoin.go", "if r.moved >= lastRoundBytes || !r.quick {", "if !r.quick {"}}, test: "./coordinator TestLastRoundIsShort"},
	{rule: "P11", leaves: "it rests in its last round", edits: []edit{{"coordinator/rejoin.go", "if !busy || !r.limit ||", "if !busy ||"}}, test: "./coordinator TestCatchingUpYields"},
	{rule: "S5b", leaves: "rows are compared by their keys", edits: []edit{{"participant/store/scrub.go",
		"one := sha256.Sum256(append(be.AppendUint16(nil, uint16(len(key))), key+string(val)...))", "one := sha256.Sum256(append(be.AppendUint16(nil, uint16(len(key))), key...))"}},
		test: "./participant/store TestCompare"},
}

// deciding is a mutant of what a scrub decides.
func deciding(leaves, file, before, after, test string) mutant {
	return mutant{rule: "S5b", leaves: leaves, edits: []edit{{"coordinator/scrub/" + file + ".go", before, after}}, test: "./coordinator/scrub " + test}
}

// scheduled is one that schedules with scrubs notice, too.
func scheduled(m mutant) mutant {
	m.seeds, m.tune = 200, "scrubbed"
	return m
}

func scrubbing(leaves, file, before, after, test string) mutant {
	return mutant{rule: "S5b, P11", leaves: leaves, edits: []edit{{file, before, after}}, test: "./coordinator " + test}
}
