package main

// repairMutants leave out what keeps a repair from doing harm, or from doing nothing (S5).
var repairMutants = []mutant{
	{
		rule: "S5", leaves: "a repair takes a block of any version where the checksum is not known",
		edits: []edit{{"participant/store/repair.go", "case c.state == blockBad && n.attr.Version == req.Version:", "case c.state == blockBad:"}},
		test:  "./participant/store TestRepairOfUnknownChecksum",
	},
	{
		rule: "S5", leaves: "a repair takes a block that has changed since",
		edits: []edit{{"participant/store/repair.go", "case c == right:", "case c.state == blockSum:"}},
		test:  "./participant/store TestRepairOfWhatHasChanged",
	},
	{
		rule: "S5", leaves: "what comes for a repair is not verified",
		edits: []edit{{"participant/store/repair.go", "if padSum(body[:d.Size]) != d.Sum {", "if false {"}},
		test:  "./participant/store TestRepairIsVerified",
	},
	{
		rule: "S5", leaves: "a repaired block is read from its staged object still",
		edits: []edit{{"participant/store/repair.go", "		b.ranges = append(b.ranges, rangeChange{n.object, stagedRange{from: start, to: start + int64(d.Size)}})\n", ""}},
		test:  "./participant/store TestRepairOfStagedPart",
	},
	{
		rule: "S5", leaves: "a repair is not synced",
		edits: []edit{{"participant/store/repair.go", "	if err := s.syncObject(object); err != nil {\n		return nil, nil, err\n	}\n", ""}},
		test:  "./participant/store TestRepairIsDurable",
	},
	{
		rule: "S5", leaves: "a checksum that a repair has learnt is durable some time",
		edits: []edit{{"integration/sim/repair.go", "if err == nil && learnt {", "if learnt = false; learnt {"}},
		trace: "TestTraceRottenBlockIsCut",
	},
	{
		rule: "S5", leaves: "who does not know a block's checksum says that there is no such block",
		edits: []edit{{"participant/store/donate.go", "!r.checks[i].state.isBytes() || size <= 0", "r.checks[i].state != blockSum || size <= 0"}},
		test:  "./participant/store TestRepairOfUnknownChecksum",
	},
	{
		rule: "P5", leaves: "a repair does not wait for the position that its donor had handled",
		edits: []edit{{"participant/repair.go", "p.gate.wait(ctx, req.Epoch, req.Index)", "p.gate.wait(ctx, req.Epoch, 0)"}},
		test:  "./participant TestRepair",
	},
	{
		rule: "P11", leaves: "who is out of sync is repaired",
		edits: []edit{{"participant/repair.go", "if err = p.inSync(\"repair\"); err == nil {", "if err == nil {"}},
		test:  "./participant TestRepair",
	},
	{
		rule: "P11", leaves: "a rotten block at the donor keeps a newcomer out",
		edits: []edit{{"coordinator/rejoin.go", "append([]*link{r.donor}, r.c.others(r.donor.member)...)", "[]*link{r.donor}"}},
		test:  "./coordinator TestCatchingUpPastARottenBlock",
	},
}
