package main

// editMutants leave out what P14 says of operators who change who takes part.
var editMutants = []mutant{
	{
		rule: "P14", leaves: "who is declared lost is waited for",
		edits: []edit{{"coordinator/commit/config.go", "slices.Contains(lost, i) || slices.Contains(declared, i):", "slices.Contains(lost, i):"}},
		trace: "TestTraceLostIsForced",
		test:  "./coordinator/commit TestTwoLost",
	},
	{
		rule: "P14", leaves: "a start does not wait for those that nobody has declared lost",
		edits: []edit{{
			"coordinator/commit/config.go",
			`		case !mem.answered || mem.unfit != nil:
			return
`,
			`		case len(declared) > 0 && !mem.answered:
		case !mem.answered || mem.unfit != nil:
			return
`,
		}},
		test: "./coordinator/commit TestLostWaitsForTheRest",
	},
	{
		rule: "P14", leaves: "one who stays and is away is not waited for",
		edits: []edit{{"coordinator/commit/edit.go", "	if len(away) > 0 {", "	if false {"}},
		test:  "./coordinator/commit TestSimulation|TestEditsWait",
	},
	{
		rule: "P14", leaves: "nobody who is in sync has to be left",
		edits: []edit{{"coordinator/commit/edit.go", "	if rest == 0 {", "	if false {"}},
		test:  "./coordinator/commit TestSimulation|TestTwoLost",
	},
	{
		rule: "P14", leaves: "fewer than have to stay may be left without force",
		edits: []edit{{"coordinator/commit/edit.go", "	if len(out) > 0 && stay < least {", "	if false {"}},
		test:  "./coordinator/commit TestEditsThatAreRefused|TestTwoLost",
	},
	{
		rule: "P14", leaves: "who takes another's number is in sync as that one was",
		edits: []edit{{"coordinator/commit/edit.go", "*mem = member{name: name,", "*mem = member{in: mem.in, name: name,"}},
		seeds: 2000, tune: "operated",
		test: "./coordinator/commit TestSimulation|TestReplace",
	},
	{
		rule: "P14", leaves: "who was removed stays configured",
		edits: []edit{{"coordinator/commit/config.go", "case mem.vacant, mem.going && mem.heir == nil:", "case mem.vacant:"}},
		test:  "./coordinator/commit TestSimulation|TestRemoveAndAdd",
	},
	{
		rule: "P14", leaves: "who is taken out keeps its link",
		edits: []edit{{"coordinator/commit/edit.go", "		if mem.linked {\n			m.rd.Drop", "		if false {\n			m.rd.Drop"}},
		test:  "./coordinator/commit TestSimulation|TestReplace",
	},
	{
		rule: "P14", leaves: "who comes or goes is greeted before the config is in force",
		edits: []edit{{"coordinator/commit/member.go", "mem.vacant || mem.coming || mem.going {", "mem.vacant {"}},
		test:  "./coordinator/commit TestReplace|TestRemoveAndAdd",
	},
	{
		rule: "P14", leaves: "an operator hears of a change that is not in force",
		edits: []edit{{
			"coordinator/commit/config.go",
			`	m.held = 0
	if m.change.admits >= 0 {`,
			`	m.held = 0
	m.settleEdits()
	if m.change.admits >= 0 {`,
		}},
		trace: "TestTraceLostIsForced",
		test:  "./coordinator/commit TestReplace",
	},
	{
		rule: "P14", leaves: "a late greeting of who was taken out counts",
		edits: []edit{{"coordinator/commit/member.go", "m.leaving(i) || mem.going {", "m.leaving(i) {"}},
		test:  "./coordinator/commit TestGreetingOfOneWhoGoes",
	},
	{
		rule: "P14", leaves: "a request that comes again is done again",
		edits: []edit{{"coordinator/commit/edit.go", "	if done := m.editDone(e.Request.ID); done != nil {", "	if done := m.editDone(e.Request.ID); done != nil && e.deadline < 0 {"}},
		test:  "./coordinator/commit TestEditsWait",
	},
	{
		rule: "P14", leaves: "the same flag as before goes before what operators have changed",
		edits: []edit{{"coordinator/commit/commit.go", "told != \"\" && told != f.Flag", "told != \"\""}},
		test:  "./coordinator/commit TestFlagsAndEdits",
	},
	{
		rule: "P14", leaves: "who was removed is greeted by others",
		edits: []edit{{"participant/vote/greet.go", "	if m.removed && g.Removed.IsZero() {", "	if false {"}},
		test:  "./participant/vote TestRemoved",
	},
	{
		rule: "P14", leaves: "an empty disk at its address hears what the removed one is told",
		edits: []edit{{"participant/vote/greet.go", "	case !g.Removed.IsZero() && g.Removed != storage:", "	case false:"}},
		test:  "./participant/vote TestRemoved",
	},
	{
		rule: "P14", leaves: "a checkpoint forgets that the participant was removed",
		edits: []edit{{"participant/vote/snapshot.go", "Since: m.since, Removed: m.removed, Time: m.time}", "Since: m.since, Time: m.time}"}},
		seeds: 2000, tune: "operated",
		test: "./participant/vote TestRemoved",
	},
	{
		rule: "P14", leaves: "a late step of catching up makes a removed participant a member",
		edits: []edit{{"participant/vote/join.go", "	case m.removed:\n", "	case false:\n"}},
		test:  "./participant/vote TestRemoved",
	},
	{
		rule: "P14", leaves: "a start counts with words that it refuses",
		edits: []edit{{"coordinator/commit/config.go", "	m.checkDeclared()\n", ""}},
		test:  "./coordinator/commit TestStartCountsWhatItBrings|TestStartOfTwoEdits",
	},
	{
		rule: "P14", leaves: "who is declared lost and is there counts among those that stay",
		edits: []edit{{"coordinator/commit/config.go", "m.leaving(i) || slices.Contains(declared, i):", "m.leaving(i):"}},
		test:  "./coordinator/commit TestDeclaredDoesNotStay",
	},
	{
		rule: "P14", leaves: "a disk that is lost while the service begins is waited for",
		edits: []edit{{"coordinator/commit/config.go", "!m.tryEdit() && m.phase == Serving", "m.phase == Serving && !m.tryEdit()"}},
		test:  "./coordinator/commit TestLostWhileConfiguring",
	},
	{
		rule: "P14", leaves: "a stranger that was added stops the coordinator",
		edits: []edit{{"coordinator/commit/member.go", "return mem.outside && mem.storage.IsZero() }", "return false }"}},
		test:  "./coordinator/commit TestAddedIsAnothers",
	},
	{
		rule: "P14", leaves: "a flag is forgotten with who was removed",
		edits: []edit{{"coordinator/commit/edit.go", "r.New.Addr, m.lastFlag(r.New.Name))", "r.New.Addr, \"\")"}},
		test:  "./coordinator/commit TestFlagsOutliveRemoval",
	},
}
