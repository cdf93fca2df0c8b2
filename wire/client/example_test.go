package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

func Example() {
	ctx := context.Background()
	// With a coordinator: client.Dial(ctx, "127.0.0.1:7420", client.Options{...}).
	service := client.NewFake() // one in memory, for this example
	c, err := client.New(ctx, service.Dial, client.Options{Wait: 30 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	if err := c.Mkdir(ctx, "notes", 0o755); err != nil {
		fmt.Println(err)
	}
	if _, err := c.WriteFile(ctx, "notes/today", client.Bytes([]byte("buy milk\n")), client.WriteOptions{}); err != nil {
		fmt.Println(err)
	}
	text, err := c.ReadFile(ctx, "notes/today")
	fmt.Printf("%q %v\n", text, err)

	if err := c.DeleteFile(ctx, "notes/today"); err != nil {
		fmt.Println(err)
	}
	_, err = c.ReadFile(ctx, "notes/today")
	fmt.Println(err)
	fmt.Println(errors.Is(err, fs.ErrNotExist), wire.CodeOf(err) == wire.CodeNotExist)
	// Output:
	// "buy milk\n" <nil>
	// readFile notes/today: no such file or directory
	// true true
}

// Several files change together or not at all.
func ExampleClient_Transact() {
	ctx := context.Background()
	c, err := client.New(ctx, client.NewFake().Dial, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
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
