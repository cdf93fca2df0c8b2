package main

// rebuildMutants leave out what makes up for a coordinator's journal that is lost.
var rebuildMutants = []mutant{
	rebuilding("a lost journal is made up for without all members of the newest config", "case in && why != \"\", len(r.Lost) > 0 && !there:", "case len(r.Lost) > 0 && !there:"),
	rebuilding("a lost journal is made up for while who is out may have what nobody else has", "case len(r.Lost) == 0 && answered < need:", "case false && answered < need:"),
	rebuilding("with some declared lost the others need not answer", "case in && why != \"\", len(r.Lost) > 0 && !there:", "case in && why != \"\":"),
	rebuilding("any config that somebody holds is taken for the newest", "case newest == nil || c.ID.Compare(newest.ID) > 0:", "case newest == nil:"),
	rebuilding("a rebuilt journal's epoch is the last one", "if rec.Epoch.Number += rebuiltEpochs; rec", "if rec"),
	rebuilding("a rebuilt journal knows of no session", "Leases: []wire.SessionID{r.StandIn}}", "}"),
	{rule: "P13, F10", leaves: "after a lost journal nobody may answer from before", edits: []edit{{"coordinator/commit/rebuild.go",
		"Leases: []wire.SessionID{r.StandIn}}", "Lapsed: []wire.SessionID{r.StandIn}}"}}, test: "./coordinator TestRebuild"},
}

func rebuilding(leaves, before, after string) mutant {
	return mutant{rule: "P13", leaves: leaves, edits: []edit{{"coordinator/commit/rebuild.go", before, after}}, test: "./coordinator/commit TestRebuil.*"}
}
