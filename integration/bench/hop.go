package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/hashicorp/yamux"

	"tpcfs/integration/harness"
	"tpcfs/wire"
)

// A bare two-hop yamux relay, each hop a process of its own on unix sockets:
// what a read through a coordinator to a participant cannot beat. A request is
// requestBytes long and begins with how many bytes are wanted.
const requestBytes = 128

func hopConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.MaxStreamWindowSize = 1 << 20
	c.LogOutput = io.Discard
	return c
}

// serveHop is a hop's process: it answers requests itself, or passes them on,
// until it fails.
func serveHop(sock, next string) error {
	var upstream *yamux.Session
	if next != "" {
		c, err := net.Dial("unix", next)
		if err != nil {
			return err
		}
		if upstream, err = yamux.Client(c, hopConfig()); err != nil {
			return err
		}
	}
	l, err := net.Listen("unix", sock)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		session, err := yamux.Server(c, hopConfig())
		if err != nil {
			return err
		}
		go func() {
			for {
				stream, err := session.AcceptStream()
				if err != nil {
					return
				}
				if upstream == nil {
					go answer(stream)
				} else {
					go relay(stream, upstream)
				}
			}
		}()
	}
}

func answer(s *yamux.Stream) {
	defer s.Close()
	request, data := make([]byte, requestBytes), make([]byte, wire.PieceSize)
	for {
		if _, err := io.ReadFull(s, request); err != nil {
			return
		}
		for left := binary.LittleEndian.Uint64(request); left > 0; {
			n := min(left, uint64(len(data)))
			if _, err := s.Write(data[:n]); err != nil {
				return
			}
			left -= n
		}
	}
}

func relay(s *yamux.Stream, upstream *yamux.Session) {
	defer s.Close()
	up, err := upstream.OpenStream()
	if err != nil {
		return
	}
	defer up.Close()
	go func() { _, _ = io.CopyBuffer(plain{up}, s, make([]byte, wire.PieceSize)) }() // ends with its stream
	_, _ = io.CopyBuffer(plain{s}, up, make([]byte, wire.PieceSize))                 // likewise
}

// plain hides what io.CopyBuffer would use in place of its buffer.
type plain struct{ io.Writer }

// hops is the relay with a client's stream through it.
type hops struct {
	procs  [2]*harness.Proc
	stream *yamux.Stream
	end    func() error
}

func openHops(ctx context.Context, dir string) (h *hops, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	h = &hops{end: func() error { return nil }}
	far, near := filepath.Join(dir, "far"), filepath.Join(dir, "near")
	for i, args := range [][]string{{"-hop", far}, {"-hop", near, "-next", far}} {
		if h.procs[i], err = harness.Start("hop", nil, self, args...); err == nil {
			_, err = h.procs[i].WaitLine(ctx, "ready")
		}
		if err != nil {
			return nil, errors.Join(err, h.close())
		}
	}
	c, err := net.Dial("unix", near)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	session, err := yamux.Client(c, hopConfig())
	if err == nil {
		h.end = session.Close
		h.stream, err = session.OpenStream()
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// get asks for n bytes and reads them.
func (h *hops) get(n int64, buf []byte) error {
	request := make([]byte, requestBytes)
	binary.LittleEndian.PutUint64(request, uint64(n))
	if _, err := h.stream.Write(request); err != nil {
		return err
	}
	for n > 0 {
		got, err := h.stream.Read(buf[:min(n, int64(len(buf)))])
		if n -= int64(got); err != nil {
			return err
		}
	}
	return nil
}

func (h *hops) close() error {
	err := h.end()
	for _, p := range h.procs {
		if p != nil {
			err = errors.Join(err, p.Kill())
		}
	}
	return err
}
