package harness

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Tree is a directory tree as a map from path to what is there: "dir", or
// "link TARGET", or "file CONTENTS".
type Tree map[string]string

// File, Dir and Link are values of a Tree.
func File(contents []byte) string { return "file " + string(contents) }

// Dir is a directory's value.
const Dir = "dir"

// Link is a symbolic link's value.
func Link(target string) string { return "link " + target }

// ReadTree reads a local directory.
func ReadTree(root string) (Tree, error) {
	t := Tree{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		switch {
		case d.IsDir():
			t[name] = Dir
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			t[name] = Link(target)
		default:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			t[name] = File(b)
		}
		return nil
	})
	return t, err
}

// Diff says in words how two trees differ: "" if they do not.
func Diff(got, want Tree) string {
	names := map[string]bool{}
	for n := range got {
		names[n] = true
	}
	for n := range want {
		names[n] = true
	}
	var out []string
	for n := range names {
		g, inGot := got[n]
		w, inWant := want[n]
		switch {
		case !inGot:
			out = append(out, fmt.Sprintf("%s is missing: want %s", n, short(w)))
		case !inWant:
			out = append(out, fmt.Sprintf("%s should not be there: %s", n, short(g)))
		case g != w:
			out = append(out, fmt.Sprintf("%s is %s, want %s", n, short(g), short(w)))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func short(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%q... (%d bytes)", s[:60], len(s))
	}
	return fmt.Sprintf("%q", s)
}
