package rpc

import (
	"io"
	"net"

	"tpcfs/wire"
)

// readPreface reads a preface, never more. The caller has set a deadline.
func readPreface(c net.Conn) (wire.Preface, error) {
	var buf [wire.PrefacePrefix + wire.MaxRefusal + 4]byte
	if _, err := io.ReadFull(c, buf[:wire.PrefacePrefix]); err != nil {
		return wire.Preface{}, noEOF(err)
	}
	n, err := wire.PrefaceLength(buf[:wire.PrefacePrefix])
	if err != nil {
		return wire.Preface{}, err
	}
	rest := buf[wire.PrefacePrefix : wire.PrefacePrefix+n]
	if _, err := io.ReadFull(c, rest); err != nil {
		return wire.Preface{}, noEOF(err)
	}
	return wire.ParsePreface(buf[:wire.PrefacePrefix], rest)
}

func writePreface(c net.Conn, p wire.Preface) error {
	_, err := c.Write(wire.AppendPreface(nil, p))
	return err
}
