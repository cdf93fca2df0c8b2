package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

// Every code has words, and errors.Is holds for exactly what it should.
func TestCodes(t *testing.T) {
	if len(codeText) != int(CodeNoLocks)+1 {
		t.Fatalf("%d codes with text, the last is %d", len(codeText), CodeNoLocks)
	}
	std := map[error][]Code{
		fs.ErrNotExist: {CodeNotExist}, fs.ErrExist: {CodeExist, CodeNotEmpty},
		fs.ErrPermission: {CodePermission, CodeAccess}, fs.ErrInvalid: {CodeInvalid}, context.Canceled: {CodeCanceled},
		fs.ErrClosed: nil, context.DeadlineExceeded: nil,
	}
	texts := map[string]Code{}
	for code := CodeNone; code <= CodeCanceled; code++ {
		if other, ok := texts[code.String()]; ok || code.String() == "unknown error code" {
			t.Errorf("code %d: %q, as %d", code, code, other)
		}
		texts[code.String()] = code
		err := fmt.Errorf("around it: %w", &Error{Code: code, Op: "op", Name: "name", Text: "text"})
		for target, codes := range std {
			want := false
			for _, c := range codes {
				want = want || c == code
			}
			if errors.Is(err, target) != want {
				t.Errorf("%v is %v: want %v", code, target, want)
			}
		}
		if CodeOf(err) != code || !errors.Is(err, NewError(code, "")) || errors.Is(err, NewError(code+1, "")) {
			t.Errorf("code %d is not itself", code)
		}
		if got, want := errors.Unwrap(err).Error(), "op name: "+code.String()+": text"; got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
	if CodeOf(nil) != CodeNone || CodeOf(errors.New("x")) != CodeIO || Code(999).String() != "unknown error code" {
		t.Error("CodeOf of other errors")
	}
}

// A name cannot garble the terminal that shows the error.
func TestErrorQuotesNames(t *testing.T) {
	for name, want := range map[string]string{
		"a b": "a b: no error", "\x1b[2J": `"\x1b[2J": no error`, "a\nb": `"a\nb": no error`, "caf\xe9": `"caf\xe9": no error`, "日": "日: no error",
	} {
		if got := (&Error{Name: name}).Error(); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

func TestNamesAndPaths(t *testing.T) {
	long := strings.Repeat("n", MaxNameLen)
	deep := strings.Repeat(strings.Repeat("d", 127)+"/", MaxPathLen/128)
	for _, c := range []struct {
		path string
		want Code
	}{
		{"", CodeNone}, {"a", CodeNone}, {"a/b", CodeNone}, {"...", CodeNone}, {"a b", CodeNone}, {"\xff", CodeNone},
		{long, CodeNone}, {"a/" + long, CodeNone}, {deep, CodeInvalid}, {deep[:MaxPathLen-1], CodeNone},
		{long + "n", CodeNameTooLong}, {"a/" + long + "n/b", CodeNameTooLong}, {deep + "x", CodeNameTooLong},
		{"/", CodeInvalid}, {"/a", CodeInvalid}, {"a/", CodeInvalid}, {"a//b", CodeInvalid},
		{".", CodeInvalid}, {"..", CodeInvalid}, {"a/./b", CodeInvalid}, {"a/../b", CodeInvalid},
		{"a\x00b", CodeInvalid}, {"a/\x00", CodeInvalid},
	} {
		err := CheckPath(c.path)
		if (err == nil) != (c.want == CodeNone) || err != nil && (err.Code != c.want || err.Name == "" || err.Text == "") {
			t.Errorf("%.80q: want %v, got %v", c.path, c.want, err)
		}
		if err == nil && strings.Join(SplitPath(c.path), "/") != c.path {
			t.Errorf("%.80q splits into %q", c.path, SplitPath(c.path))
		}
		if !strings.Contains(c.path, "/") && c.path != "" && len(c.path) < MaxPathLen {
			if one := CheckName(c.path); (one == nil) != (err == nil) {
				t.Errorf("%q: as a name %v, as a path %v", c.path, one, err)
			}
		}
	}
	if CheckName("") == nil || CheckName("a/b") == nil {
		t.Error("no names, and allowed")
	}
	if SplitPath("") != nil {
		t.Error("the directory itself has components")
	}
}

// An object's sum is that of its zero-padded blocks' sums, however it is cut
// into writes.
func TestObjectSum(t *testing.T) {
	for _, n := range []int{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 3*BlockSize + 100} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 7)
		}
		var sums []byte
		for at := 0; at < n; at += BlockSize {
			block := make([]byte, BlockSize)
			copy(block, b[at:])
			s := Sum(block)
			sums = append(sums, byte(s), byte(s>>8), byte(s>>16), byte(s>>24))
		}
		for _, step := range []int{1000, BlockSize, n + 1} {
			var s ObjectSum
			for rest := b; len(rest) > 0; {
				k, _ := s.Write(rest[:min(step, len(rest))])
				rest = rest[k:]
			}
			if first, again := s.Sum(), s.Sum(); first != Sum(sums) || again != first {
				t.Errorf("%d bytes in steps of %d: wrong", n, step)
			}
		}
	}
}

// The limits agree with each other.
func TestLimitsFit(t *testing.T) {
	entry := DirEntry{Name: strings.Repeat("\xff", MaxNameLen), Attr: Attr{
		Ino: 1<<64 - 1, Mode: 1<<32 - 1, Nlink: 1<<32 - 1, UID: 1<<32 - 1, GID: 1<<32 - 1, Rdev: 1<<32 - 1, Size: -1 << 63,
		Blocks: -1 << 63, Atime: -1 << 63, Mtime: -1 << 63, Ctime: -1 << 63, Version: 1<<64 - 1, Parent: 1<<64 - 1,
	}}
	page := ReadReply{Attr: entry.Attr, Position: Position{1<<64 - 1, 1<<64 - 1}, More: true}
	for range MaxListEntries {
		page.Entries = append(page.Entries, entry)
	}
	if n := len(Marshal(page)); n > MaxFrame {
		t.Errorf("a full page of a listing takes %d bytes, a frame %d", n, MaxFrame)
	}
	var back ReadReply
	if err := Unmarshal(Marshal(page), &back); err != nil || len(back.Entries) != MaxListEntries {
		t.Error("a full page does not come back:", err)
	}
	// The longest request, as a prepare on a transaction stream.
	req := Transact{Op: OpID{Seq: 1<<64 - 1}, Link: 1<<64 - 1, Lowest: 1<<64 - 1, Sent: 1<<63 - 1, Wait: 1<<63 - 1}
	m := Mutation{Kind: MutDeleteFile, At: At{RootIno, strings.Repeat("p", 90)}}
	for range MaxTransact/len(Marshal(m)) + 1 {
		req.Mutations = append(req.Mutations, m)
	}
	for i, over := 0, len(Marshal(req))-MaxTransact; over > 0; i++ { // to the byte
		cut := min(60, over)
		req.Mutations[i].At.Path = m.At.Path[cut:]
		over -= cut
	}
	huge := Position{1<<64 - 1, 1<<64 - 1}
	down := Down{W: huge, ServiceTime: 1<<63 - 1, Entry: &Entry{Index: 1<<64 - 1, Kind: EntryPrepare, Tx: 1<<64 - 1, Prepare: &Prepare{
		Tx: 1<<64 - 1, Config: ConfigID{1<<64 - 1, 1<<64 - 1}, Op: req.Op, Lowest: req.Lowest, Sent: req.Sent, Time: 1<<63 - 1,
		ServiceTime: 1<<63 - 1, W: huge, Mutations: req.Mutations,
	}}}
	if n := len(Marshal(down)) + MaxInline; n > MaxFrame || len(Marshal(req)) != MaxTransact {
		t.Errorf("a request of %d bytes makes an entry of %d, a frame has %d", len(Marshal(req)), n, MaxFrame)
	}
	// The answer to the most mutations needs several frames, but not too many.
	reply := TransactReply{Outcome: Outcome{Results: make([]Result, MaxMutations)}}
	for i := range reply.Outcome.Results {
		reply.Outcome.Results[i] = Result{Ino: 1<<64 - 1, Created: true, Offset: 1<<63 - 1}
	}
	if n := len(Marshal(reply)); n > MaxMessage {
		t.Errorf("an answer of %d bytes", n)
	}
}
