package main

// adoptMutants leave out what a newcomer's store does to catch up (P11a).
var adoptMutants = []mutant{
	adopting("what has come is not in the newcomer's index",
		"return a.note(req.Position)", "return nil"),
	adopting("a block that was damaged on the way is written",
		"if padSum(data) != d.Sum {", "if false {"),
	adopting("the time of an outcome that goes stays",
		"		a.b.del(opTimeKey(int64(be.Uint64(old)), op))\n", "		_ = op\n"),
	adopting("the index of before a full comparison goes on",
		"c.full, s.counts.ChangesFrom = false, pos", "c.full = false"),
	adopting("how far an attempt came outlives the return",
		"	s.counts.CopiedTo = wire.Position{}\n", ""),
	adopting("a block that has changed since is written",
		"if check[0] != (blockCheck{blockSum, d.Sum}) {", "if check == nil {"),
	adopting("a round counts in which blocks are lacking",
		"	if c.again() {\n", "	if c.again() || true {\n"),
	adopting("it is over while blocks are lacking",
		`if c.full || c.walk != "" || !c.again() {`, `if c.full || c.walk != "" {`),
}

func adopting(leaves, before, after string) mutant {
	return mutant{rule: "P11a", leaves: leaves, edits: []edit{{"participant/store/adopt.go", before, after}}, test: `./participant/store TestResync\w+`}
}
