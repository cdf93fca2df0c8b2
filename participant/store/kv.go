package store

// KV holds sealed rows: bbolt, or in simulation ModelKV. The first byte of a
// key is its bucket. Its only writer is the checkpoint (S3); reads come from
// any goroutine at the same time.
type KV interface {
	// View begins a read transaction: one moment. Keep it short (S1: at most
	// 1,000 keys).
	View() (KVTx, error)
	// Update makes all that fn writes durable, or nothing. A full disk met by
	// a write is an fs.PathError with Op "write": Update may be called again
	// then, and only then.
	Update(fn func(w KVWriter) error) error
	// Close releases the kv; it changes nothing.
	Close() error
}

// KVTx is a read transaction. Values are copies: they belong to the caller.
type KVTx interface {
	Get(key string) (val []byte, ok bool, err error)
	// Seek returns the rows of from's bucket, from that key on, in order.
	Seek(from string) KVCursor
	Close()
}

// KVCursor walks rows in the order of keys.
type KVCursor interface {
	// Next returns the next row; ok is false after the last.
	Next() (key string, val []byte, ok bool, err error)
}

// KVWriter is a write transaction. Each key comes once, most in ascending order.
// Values must stay as they are until Update returns.
type KVWriter interface {
	Put(key string, val []byte) error
	Delete(key string) error
}
