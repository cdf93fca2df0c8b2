//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

type point struct {
	action string
	left   int // hits until the action
}

var (
	mu     sync.Mutex // guards points
	points = parse(os.Getenv(Variable))
)

func parse(spec string) map[string]*point {
	m := map[string]*point{}
	for _, item := range strings.Split(spec, ",") {
		if item == "" {
			continue
		}
		name, action, ok := strings.Cut(item, "=")
		if !ok {
			action = "kill"
		}
		name, count, ok := strings.Cut(name, ":")
		n := 1
		if ok {
			var err error
			if n, err = strconv.Atoi(count); err != nil || n < 1 {
				panic(fmt.Sprintf("%s: %q is not a count", Variable, item))
			}
		}
		if action != "kill" && action != "block" {
			panic(fmt.Sprintf("%s: %q is not an action", Variable, item))
		}
		m[name] = &point{action, n}
	}
	return m
}

// At is where a named step begins. It returns at once unless the variable
// names it.
func At(name string) {
	mu.Lock()
	p := points[name]
	if p == nil {
		mu.Unlock()
		return
	}
	p.left--
	hit := p.left == 0 || p.left < 0 && p.action == "block"
	mu.Unlock()
	if !hit {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", name, p.action)
	if p.action == "kill" {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	}
	select {}
}
