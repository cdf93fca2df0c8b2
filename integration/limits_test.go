package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// said is a content of which only the size is said: nobody may ask for more.
type said int64

func (s said) Size() int64 { return int64(s) }

func (said) Open() (io.ReadCloser, error) { return nil, errors.New("the contents were asked for") }

// limit is one that is kept: what just fits is done; one more is refused before
// a byte is staged, with an error that tells the limit.
type limit struct {
	name  string
	fits  func(ctx context.Context, c *client.Client) error // nil: too dear to be tried
	over  func(ctx context.Context, c *client.Client) error
	code  wire.Code
	words string // of the error
}

func limits() []limit {
	none := client.WriteOptions{Mode: 0o644}
	small := client.Bytes([]byte("x"))
	write := func(name string, content client.Content) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.WriteFile(ctx, name, content, none)
			return err
		}
	}
	extents := func(n int, step int64) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			var list []client.Extent
			for i := range n {
				list = append(list, client.Extent{Offset: int64(i) * step, Content: small})
			}
			_, err := c.WriteExtents(ctx, "f", list, client.ExtentOptions{WriteOptions: none})
			return err
		}
	}
	last := func(offset int64) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.WriteExtents(ctx, "f", []client.Extent{{Offset: offset, Content: small}}, client.ExtentOptions{WriteOptions: none})
			return err
		}
	}
	size := func(n int64) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error { return c.Truncate(ctx, "f", n) }
	}
	allocate := func(n int64) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error { return c.ZeroRange(ctx, "f", 0, n, true) }
	}
	target := func(n int) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			return c.Symlink(ctx, strings.Repeat("t", n), fmt.Sprint("link", n))
		}
	}
	xattr := func(name string, n int) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			return c.Setxattr(ctx, "f", name, make([]byte, n), wire.XattrEither)
		}
	}
	many := func(n int) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			tx := c.Tx()
			for i := range n {
				tx.Mkdir(fmt.Sprint("d", i), 0o755)
			}
			_, err := tx.Commit(ctx)
			return err
		}
	}
	pack := func(n int) func(context.Context, *client.Client) error { // of what cannot be staged by itself
		return func(ctx context.Context, c *client.Client) error {
			tx := c.Tx()
			for i := range n {
				tx.Setxattr("f", fmt.Sprint("user.", i%100), make([]byte, wire.MaxXattrValue), wire.XattrEither)
			}
			_, err := tx.Commit(ctx)
			return err
		}
	}
	return []limit{
		{"bytes of a name", write(strings.Repeat("n", wire.MaxNameLen), small), write(strings.Repeat("n", wire.MaxNameLen+1), small), wire.CodeNameTooLong, "255"},
		{"bytes of a path", deep(wire.MaxPathLen, small), write(strings.Repeat("a/", wire.MaxPathLen/2)+"b", small), wire.CodeNameTooLong, "4096"},
		{"bytes of a link's target", target(wire.MaxPathLen), target(wire.MaxPathLen + 1), wire.CodeNameTooLong, "4096"},
		{"bytes of contents", nil, write("f", said(wire.MaxFileSize+1)), wire.CodeTooLarge, fmt.Sprint(int64(wire.MaxFileSize))},
		{"size", size(wire.MaxFileSize), size(wire.MaxFileSize + 1), wire.CodeTooLarge, fmt.Sprint(int64(wire.MaxFileSize))},
		{"end of an extent", last(wire.MaxFileSize - 1), last(wire.MaxFileSize), wire.CodeTooLarge, fmt.Sprint(int64(wire.MaxFileSize))},
		{"extents", extents(wire.MaxExtents, 2), extents(wire.MaxExtents+1, 2), wire.CodeTooMany, fmt.Sprint(wire.MaxExtents)},
		{"bytes zeroed", nil, allocate(wire.MaxRange + 1), wire.CodeTooLarge, "128.0 GiB"},
		{"bytes of an attribute", xattr("user.v", wire.MaxXattrValue), xattr("user.v", wire.MaxXattrValue+1), wire.CodeTooMany, fmt.Sprint(wire.MaxXattrValue)},
		{"bytes of an attribute's name", xattr("user."+strings.Repeat("n", 250), 1), xattr("user."+strings.Repeat("n", 251), 1), wire.CodeNameTooLong, "255"},
		{"mutations", nil, many(wire.MaxMutations + 1), wire.CodeTooMany, fmt.Sprint(wire.MaxMutations)},
		{"bytes of a pack", nil, pack(wire.MaxPack/wire.MaxXattrValue + 1), wire.CodeTooMany, "64.0 MiB"},
	}
}

// deep writes a file whose path has n bytes.
func deep(n int, content client.Content) func(context.Context, *client.Client) error {
	return func(ctx context.Context, c *client.Client) error {
		dir := ""
		for n-len(dir) > wire.MaxNameLen {
			dir += strings.Repeat("d", min(200, n-len(dir)-2))
			if err := c.Mkdir(ctx, dir, 0o755); err != nil {
				return err
			}
			dir += "/"
		}
		_, err := c.WriteFile(ctx, dir+strings.Repeat("f", n-len(dir)), content, client.WriteOptions{Mode: 0o644})
		return err
	}
}

// The names of a file's attributes have a limit together: what just fits is
// there, one more is refused.
func TestLimitOfAttributeNames(t *testing.T) {
	ctx := testContext(t)
	_, c := goClient(t)
	mustWrite(t, ctx, c, "f", []byte("f"))
	tx := c.Tx()
	const each = wire.MaxNameLen + 1 // with its NUL
	for i := range wire.MaxXattrNames / each {
		tx.Setxattr("f", fmt.Sprintf("user.%0*d", wire.MaxNameLen-len("user."), i), []byte("v"), wire.XattrCreate)
	}
	if _, err := tx.Commit(ctx); err != nil {
		t.Fatal("what just fits:", err)
	}
	err := c.Setxattr(ctx, "f", "user.x", nil, wire.XattrEither)
	if wire.CodeOf(err) != wire.CodeTooMany || !strings.Contains(err.Error(), fmt.Sprint(wire.MaxXattrNames)) {
		t.Errorf("one more: %v", err)
	}
	names, err := c.Listxattr(ctx, "f")
	if err != nil || len(names) != wire.MaxXattrNames/each {
		t.Errorf("%d names, %v", len(names), err)
	}
	name := names[0] // another value of what is there is no name more
	if err := c.Setxattr(ctx, "f", name, []byte("w"), wire.XattrReplace); err != nil {
		t.Error(err)
	}
}

// What is beyond a limit is refused before anything of it is sent, in words that
// tell the limit; what just fits is done.
func TestLimits(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := harness.OpenInProcess(ctx, t.TempDir(), 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	var staged atomic.Int64
	c, err := client.New(ctx, func(context.Context) (client.Conn, error) {
		return &flaky{p.Coordinator, &staged, func() bool { return false }}, nil
	}, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(c.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	}()
	mustWrite(t, ctx, c, "f", []byte("f"))
	for _, l := range limits() {
		t.Run(l.name, func(t *testing.T) {
			before := staged.Load()
			err := l.over(ctx, c)
			if wire.CodeOf(err) != l.code || !strings.Contains(err.Error(), l.words) {
				t.Errorf("one more: %v; want %v and %q", err, l.code, l.words)
			}
			if n := staged.Load() - before; n > 0 {
				t.Errorf("%d bytes were staged for nothing", n)
			}
			if l.fits != nil {
				if err := l.fits(ctx, c); err != nil {
					t.Errorf("what just fits: %v", err)
				}
			}
		})
	}
}

// The commands say the same, in one line, and nothing is there afterwards.
func TestLimitsOfCommands(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, addr := up(t, ctx, tempDir(t)+"/data")
	env := []string{"TPCFS_COORDINATOR=" + addr}
	name := strings.Repeat("n", wire.MaxNameLen)
	path := strings.Repeat("a/", wire.MaxPathLen/2) + "b"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"put", "-", name + "n"}, "255"},
		{[]string{"mkdir", name + "n"}, "255"},
		{[]string{"put", "-", path}, "4096"},
		{[]string{"ln", "-s", strings.Repeat("t", wire.MaxPathLen+1), "link"}, "4096"},
		{[]string{"get", path}, "4096"},
	} {
		oneLine(t, c.args[0], run(t, ctx, env, "x", c.args...), 1, c.want)
	}
	if r := run(t, ctx, env, "", "ls"); r.Code != 0 || r.Out != "" {
		t.Errorf("something is left: %+v", r)
	}
	if r := run(t, ctx, env, "x", "put", "-", name); r.Code != 0 {
		t.Errorf("what just fits: %+v", r)
	}
}
