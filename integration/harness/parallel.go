package harness

import (
	"flag"
	"runtime"
	"strconv"
)

// Parallel lets perCPU parallel tests a processor run at a time, unless the
// command line says how many. It is for TestMain: tests of processes wait, for
// disks, for leases, for each other, more than they compute.
func Parallel(perCPU int) error {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(perCPU*runtime.GOMAXPROCS(0)))
}
