package fusefs

import (
	"strconv"
	"strings"
)

// mounted is one line of /proc/self/mountinfo (proc(5)).
type mounted struct {
	device string // major:minor
	point  string
	fsType string
}

// parseMountinfo reads the lines that it understands, in their order: of two
// mounts at one place the later is on top.
func parseMountinfo(text string) []mounted {
	var list []mounted
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		types := strings.Fields(right)
		if !ok || len(fields) < 6 || len(types) < 1 {
			continue
		}
		list = append(list, mounted{device: fields[2], point: unescape(fields[4]), fsType: types[0]})
	}
	return list
}

// topmost returns what is mounted at point.
func topmost(list []mounted, point string) (mounted, bool) {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].point == point {
			return list[i], true
		}
	}
	return mounted{}, false
}

// unescape undoes the octal escapes of spaces and their like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
