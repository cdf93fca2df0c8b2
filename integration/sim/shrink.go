package sim

// Shrink finds a shorter schedule that ends in the same kind of violation, by
// leaving steps out: halves first, then smaller parts. It runs at most tries
// schedules.
func Shrink(seed uint64, failed Report, o Options, tries int) Report {
	best := failed
	for part := len(best.Schedule) / 2; part > 0 && tries > 0; {
		shorter := false
		for at := 0; at < len(best.Schedule) && tries > 0; {
			end := min(at+part, len(best.Schedule))
			script := append(append([]Step{}, best.Schedule[:at]...), best.Schedule[end:]...)
			o.Script = script
			tries--
			if r := Run(seed, o); r.Violation != nil && r.Violation.Kind == best.Violation.Kind {
				best, shorter = r, true
				continue
			}
			at = end
		}
		if !shorter || part > len(best.Schedule)/2 {
			part /= 2
		}
	}
	return best
}
