package harness

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"
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

// Duration is how long a test is to go on: what a variable says, or else usual.
func Duration(variable string, usual time.Duration) (time.Duration, error) {
	s := os.Getenv(variable)
	if s == "" {
		return usual, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s=%s: want a time, as 30s or 1h", variable, s)
	}
	return d, nil
}
