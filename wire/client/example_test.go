package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"strconv"
	"strings"
	"time"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// In these examples addr is a coordinator's address, such as "127.0.0.1:7420".

// Writing, reading and deleting a file.
func Example() {
	addr, stop := client.ServeFake()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, addr, client.Options{Wait: 30 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	if _, err := c.WriteFile(ctx, "today", client.Bytes([]byte("buy milk\n")), client.WriteOptions{}); err != nil {
		log.Fatal(err)
	}
	text, err := c.ReadFile(ctx, "today")
	fmt.Printf("%q %v\n", text, err)

	if err := c.DeleteFile(ctx, "today"); err != nil {
		log.Fatal(err)
	}
	_, err = c.ReadFile(ctx, "today")
	fmt.Println(err)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// "buy milk\n" <nil>
	// readFile today: no such file or directory
	// true
}

// A file written as a stream is there as a whole when Close has returned, and
// is read in order or anywhere.
func ExampleClient_Create() {
	addr, stop := client.ServeFake()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	w, err := c.Create(ctx, "numbers", client.WriteOptions{Create: wire.MustNotExist})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Abort() // does nothing after Close
	for i := range 200_000 {
		if _, err := fmt.Fprintf(w, "%07d\n", i); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	r, err := c.Open(ctx, "numbers")
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	line := make([]byte, 7)
	if _, err := r.ReadAt(line, 8*123_456); err != nil {
		log.Fatal(err)
	}
	n, err := io.Copy(io.Discard, r)
	fmt.Println(string(line), n == r.Size(), err)
	// Output: 0123456 true <nil>
}

// Several files change together or not at all.
func ExampleClient_Tx() {
	addr, stop := client.ServeFake()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	outcome, err := c.Tx().
		Mkdir("site", 0o755).
		WriteFile("site/index.html", client.Bytes([]byte("<h1>hello</h1>")), client.WriteOptions{}).
		WriteFile("site/version", client.Bytes([]byte("1")), client.WriteOptions{}).
		Symlink("site", "current").
		Commit(ctx)
	fmt.Println(len(outcome.Results), err)

	_, err = c.Tx().
		DeleteFile("site/index.html").
		DeleteFile("site/style.css").
		Commit(ctx)
	fmt.Println(err)
	page, err := c.ReadFile(ctx, "current/index.html")
	fmt.Println(string(page), err)
	// Output:
	// 4 <nil>
	// deleteFile site/style.css: no such file or directory
	// <h1>hello</h1> <nil>
}

// A file is changed depending on what is in it, though others do so too:
// whoever comes second finds that the version is another, and starts again.
func Example_conflict() {
	addr, stop := client.ServeFake()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteFile(ctx, "count", client.Bytes([]byte("0")), client.WriteOptions{}); err != nil {
		log.Fatal(err)
	}

	increment := func() error {
		for {
			var b strings.Builder
			attr, err := c.ReadTo(ctx, "count", &b, client.ReadOptions{})
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(b.String())
			if err != nil {
				return err
			}
			next := client.Bytes([]byte(strconv.Itoa(n + 1)))
			_, err = c.WriteFile(ctx, "count", next, client.WriteOptions{IfVersion: attr.Version})
			if errors.Is(err, client.ErrVersion) || errors.Is(err, client.ErrConflict) {
				continue // somebody was first, nothing has changed
			}
			return err
		}
	}

	done := make(chan error)
	for range 10 {
		go func() { done <- increment() }()
	}
	for range 10 {
		if err := <-done; err != nil {
			log.Fatal(err)
		}
	}
	count, err := c.ReadFile(ctx, "count")
	fmt.Println(string(count), err)
	// Output: 10 <nil>
}

// What reads an fs.FS reads the service.
func ExampleClient_FS() {
	addr, stop := client.ServeFake()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Tx().Mkdir("docs", 0o755).Mkdir("docs/old", 0o755).
		WriteFile("docs/a.txt", client.Bytes([]byte("a")), client.WriteOptions{}).
		WriteFile("docs/old/b.txt", client.Bytes([]byte("bb")), client.WriteOptions{}).
		Commit(ctx); err != nil {
		log.Fatal(err)
	}

	err = fs.WalkDir(c.FS(ctx, "docs"), ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(path, d.IsDir())
		return err
	})
	fmt.Println(err)
	// Output:
	// . true
	// a.txt false
	// old true
	// old/b.txt false
	// <nil>
}

// The service's own words: mutations, with names as they are on the wire.
func ExampleClient_Transact() {
	addr, stop := client.ServeFake()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, addr, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	root := func(path string) wire.At { return wire.At{Dir: wire.RootIno, Path: path} }
	outcome, err := c.Transact(ctx, []wire.Mutation{
		{Kind: wire.MutWriteFile, At: root("config"), Mode: 0o644},
		{Kind: wire.MutWriteFile, At: root("config.version"), Mode: 0o644},
	}, []client.Content{client.Bytes([]byte("color = blue\n")), client.Bytes([]byte("2\n"))})
	fmt.Println(len(outcome.Results), err)
	// Output: 2 <nil>
}
