package exhaust

// Small are the boxes of every test run: some seconds.
func Small() []Box {
	return []Box{
		{Name: "start", Replicas: 2, Ops: []string{"x"}, CoordinatorCrashes: 1, LostGreetings: 1, Beats: 1, Bootstrap: true},
		{Name: "retry", Replicas: 2, Ops: []string{"x"}, Retries: 1, CoordinatorCrashes: 1, ReplicaCrashes: 1, Symmetric: true},
		{Name: "links", Replicas: 2, Ops: []string{"x"}, CoordinatorCrashes: 1, Breaks: 1, Refusals: 1, Late: 1, Symmetric: true},
		{Name: "refusals", Replicas: 2, Ops: []string{"x"}, CoordinatorCrashes: 1, ReplicaCrashes: 1, Refusals: 2, Symmetric: true},
		{Name: "late", Replicas: 2, Ops: []string{"x"}, ReplicaCrashes: 1, Refusals: 2, Late: 1, Symmetric: true},
		{Name: "delayed", Replicas: 2, Ops: []string{"x"}, Retries: 1, Breaks: 1, Refusals: 1, Delayed: 1, Symmetric: true},
		{Name: "conflict", Replicas: 2, Ops: []string{"x", "x"}, CoordinatorCrashes: 1, Refusals: 1, Symmetric: true},
		{Name: "three", Replicas: 3, Ops: []string{"x"}, CoordinatorCrashes: 1, Refusals: 1, Symmetric: true},
	}
}

// Large are the boxes of `make exhaust`: minutes.
func Large() []Box {
	return []Box{
		{Name: "start twice", Replicas: 2, Ops: []string{"x"}, CoordinatorCrashes: 2, ReplicaCrashes: 1, LostGreetings: 1, Bootstrap: true},
		{Name: "two reigns", Replicas: 2, Ops: []string{"x"}, Retries: 1, CoordinatorCrashes: 2, Refusals: 1, Beats: 1},
		{Name: "refusals, two crashes", Replicas: 2, Ops: []string{"x"}, CoordinatorCrashes: 1, ReplicaCrashes: 2, Refusals: 2},
		{Name: "late, retried", Replicas: 2, Ops: []string{"x"}, Retries: 1, CoordinatorCrashes: 1, ReplicaCrashes: 1, Refusals: 2, Late: 1, Symmetric: true},
		{Name: "delayed, crashes", Replicas: 2, Ops: []string{"x"}, Retries: 1, CoordinatorCrashes: 1, Breaks: 1, Refusals: 1, Delayed: 1, Symmetric: true},
		{Name: "conflict, retried", Replicas: 2, Ops: []string{"x", "x"}, Retries: 1, CoordinatorCrashes: 1, ReplicaCrashes: 1, Symmetric: true},
		{Name: "two names", Replicas: 2, Ops: []string{"x", "x y"}, CoordinatorCrashes: 1, ReplicaCrashes: 1, Refusals: 1, Symmetric: true},
		{Name: "no conflict", Replicas: 2, Ops: []string{"x", "y"}, CoordinatorCrashes: 1, ReplicaCrashes: 1, Symmetric: true},
		{Name: "conflict and links", Replicas: 2, Ops: []string{"x", "x"}, CoordinatorCrashes: 1, Breaks: 1, Refusals: 1, Late: 1, Beats: 1, Symmetric: true},
		{Name: "conflict, two reigns", Replicas: 2, Ops: []string{"x", "x"}, CoordinatorCrashes: 2, Beats: 1},
		{Name: "two crashes each", Replicas: 2, Ops: []string{"x"}, CoordinatorCrashes: 2, ReplicaCrashes: 2, Symmetric: true},
		{Name: "all faults", Replicas: 2, Ops: []string{"x"}, CoordinatorCrashes: 1, ReplicaCrashes: 1, Breaks: 1, LostGreetings: 1, Refusals: 1, Late: 1, Symmetric: true},
		{Name: "three operations", Replicas: 2, Ops: []string{"x", "x", "y"}, CoordinatorCrashes: 1, Symmetric: true},
		{Name: "three replicas", Replicas: 3, Ops: []string{"x", "x"}, CoordinatorCrashes: 1, Refusals: 1, Symmetric: true},
	}
}
