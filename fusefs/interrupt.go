package fusefs

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// signalPoll is how often an interrupted caller's pending signals are read.
const signalPoll = 50 * time.Millisecond

// begin returns the context of one request. It ends with the connection, or
// when a signal is pending that will end the caller (F6): Go's preemption and
// handlers with SA_RESTART interrupt healthy callers all the time. The caller
// calls end.
func (f *fileSystem) begin(cancel <-chan struct{}, h *fuse.InHeader) (ctx context.Context, end func()) {
	f.requests.Add(1)
	ctx, stop := context.WithCancel(f.ctx)
	thread := h.Pid
	f.wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-cancel:
			if waitFatal(ctx, thread) {
				stop()
			}
		}
	})
	return ctx, stop
}

// waitFatal waits until a fatal signal is pending for the thread, or ctx ends.
func waitFatal(ctx context.Context, thread uint32) bool {
	ticker := time.NewTicker(signalPoll)
	defer ticker.Stop()
	for {
		if threadDying(thread) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}

// threadDying reads /proc. A thread that is gone needs no answer. Thread 0 is
// the kernel's, or one that this process cannot see: nothing ends its wait
// but the answer.
func threadDying(thread uint32) bool {
	if thread == 0 {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return os.IsNotExist(err)
	}
	return fatalPending(string(status))
}

// harmless are the signals whose default is to be ignored or to stop or go
// on (signal(7)): CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
const harmless = 1<<16 | 1<<17 | 1<<18 | 1<<19 | 1<<20 | 1<<21 | 1<<22 | 1<<27

// fatalPending reads a thread's /proc status: is a signal pending that is
// neither caught nor ignored nor blocked, and whose default ends the process?
func fatalPending(status string) bool {
	var pending, spared uint64
	for line := range strings.Lines(status) {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			continue
		}
		switch name {
		case "SigPnd", "ShdPnd":
			pending |= mask
		case "SigCgt", "SigIgn", "SigBlk":
			spared |= mask
		}
	}
	const kill = 1 << 8 // SIGKILL
	return pending&^spared&^harmless != 0 || pending&kill != 0
}

// threadExiting reports whether the thread is on its way out (PF_EXITING in
// the flags of /proc/TID/stat): nobody will see what its closes return.
func threadExiting(thread uint32) bool {
	if thread == 0 {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", thread))
	if err != nil {
		return os.IsNotExist(err)
	}
	_, rest, ok := strings.Cut(string(stat), ") ") // the name may hold anything but this
	if i := strings.LastIndex(string(stat), ") "); ok {
		rest = string(stat)[i+2:]
	}
	fields := strings.Fields(rest)
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	const exiting = 0x4 // PF_EXITING
	return err == nil && flags&exiting != 0
}
