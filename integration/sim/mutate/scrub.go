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
		"doubt := c.doubt(i)", "doubt := 0", "TestScrubVerdictStays"),
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
	scrubbing("two that are wrong get everything anew, maybe from each other", "coordinator/scrub/verdict.go",
		"case len(m.renews) > 1:", "case false:", "TestScrubOfRowsThatDiffer"),
	deciding("who is wrong gets everything anew from those of whom nobody knows who is right", "	case slices.Contains(m.undecided, true):\n", "	case false:\n", "TestJudge"),
	deciding("who came in the middle of a comparison gives everything to who is wrong", "case half || !m.all:", "case !m.all:", "TestOneThatComesBack"),
	scrubbing("others' checksums do not matter to who gets everything anew", "coordinator/scrub/verdict.go",
		"	case m.sums:\n", "	case false:\n", "TestScrubOfRowsThatDiffer"),
	scrubbing("damage is one finding each time it is told", "coordinator/scrub/machine.go",
		" && !m.damaged[i] {", " {", "TestScrubAsksAgain"),
	scrubbing("who could not be asked for a moment was not compared", "coordinator/scrub/machine.go",
		"		m.failed[i] = err\n", "		m.failed[i] = err\n		m.problem(i, err)\n", "TestScrubAsksAgain"),
	scrubbing("a last round that nobody's writes wait for is given up as any other", "coordinator/commit/pace.go",
		"return lastRound << min(late, mostLastRounds)", "return lastRound", "TestLastRoundOfASlowDisk"),
	scrubbing("a last round takes longer and longer while writes wait", "coordinator/commit/pace.go",
		"	if m.enough() {\n		return lastRound\n", "	if late < 0 {\n		return lastRound\n", "TestLastRoundOfASlowDisk"),
	{rule: "S5b", leaves: "rows are compared by their keys", edits: []edit{{"participant/store/scrub.go",
		"one := sha256.Sum256(append(be.AppendUint16(nil, uint16(len(key))), key+string(val)...))", "one := sha256.Sum256(append(be.AppendUint16(nil, uint16(len(key))), key...))"}},
		test: "./participant/store TestCompare"},
}

// deciding is a mutant of what a scrub decides, which schedules notice, too.
func deciding(leaves, before, after, test string) mutant {
	return mutant{rule: "S5b", leaves: leaves, edits: []edit{{"coordinator/scrub/verdict.go", before, after}}, test: "./coordinator/scrub " + test}
}

func scrubbing(leaves, file, before, after, test string) mutant {
	return mutant{rule: "S5b, P11", leaves: leaves, edits: []edit{{file, before, after}}, test: "./coordinator " + test}
}
