package posix

import (
	"slices"
	"strings"
	"syscall"
)

// deviation is what the mount answers where it may answer otherwise than the
// local disk, and why.
type deviation struct{ mount, why string }

const (
	whySetID    = "where nothing but the set-id bits would change the kernel's FUSE sends nothing"
	whySeek     = "the kernel bounds lseek by what FUSE could have, 2^63-1; where there can be no byte write says EFBIG"
	whyCollapse = "the kernel's FUSE knows no ranges that are taken out or put in"
)

// deviations are by case and call.
var deviations = map[string]deviation{
	"chown of nothing: lstat(f6755)":            {"file 6755 n1 0:0 1 bytes", whySetID},
	"chown of nothing: lstat(f4644)":            {"file 4644 n1 0:0 1 bytes", whySetID},
	"chown of nothing: lstat(f2755)":            {"file 2755 n1 0:0 1 bytes", whySetID},
	"chown of nothing: lstat(mine)":             {"file 6755 n1 1000:1000 1 bytes", whySetID},
	"chown of nothing: times of chown of f6755": {"f6755: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f4644": {"f4644: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f2755": {"f2755: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f2644": {"f2644: mtime same, ctime same", whySetID},
	"chown of nothing: times of chown of f0644": {"f0644: mtime same, ctime same", whySetID},

	"large offsets: lseek(<f>, 1, 2)":                   {"17592186040321", whySeek},
	"large offsets: lseek(<f>, 17592186040321, 0)":      {"17592186040321", whySeek},
	"large offsets: lseek(<f>, 4611686018427387904, 0)": {"4611686018427387904", whySeek},

	"fallocate of ranges that go or come: fallocate(8, 0)":  {"ENOTSUP", whyCollapse},
	"fallocate of ranges that go or come: fallocate(8, 1)":  {"ENOTSUP", whyCollapse},
	"fallocate of ranges that go or come: fallocate(32, 0)": {"ENOTSUP", whyCollapse},
	"fallocate of ranges that go or come: fallocate(32, 1)": {"ENOTSUP", whyCollapse},

	"utimensat: times(far)": {"{-9223372037 145224192} {9223372036 854775807}", "times are nanoseconds in 64 bits: 1677 to 2262"},
}

var (
	name255 = strings.Repeat("n", 255)
	name256 = name255 + "n"
)

// tableCase is some system calls, made in an empty directory.
type tableCase struct {
	name string
	run  func(p *probe)
}

// cases are the table.
var cases = slices.Concat(openCases, nameCases, rightCases, attributeCases, contentCases)

func result0(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
