package wire

import (
	"bytes"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

var quickTypes = []any{&Piece{}, &Read{}, &PositionedRead{}, &ReadReply{},
	&Down{}, &Up{}, &Transact{}, &TransactReply{}, &Mutation{}, &Outcome{}}

// general encodes without the quick codec.
func general(t testing.TB, v any) []byte {
	t.Helper()
	b, err := encMode.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// leaves calls fn for every field below v that holds no fields itself.
func leaves(v reflect.Value, name string, fn func(v reflect.Value, name string)) {
	if v.Kind() != reflect.Struct {
		fn(v, name)
		return
	}
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("cbor") != "-" {
			leaves(v.Field(i), name+"."+v.Type().Field(i).Name, fn)
		}
	}
}

// values are what a leaf is set to: about each length of its encoding.
func values(v reflect.Value) []reflect.Value {
	var list []reflect.Value
	for _, n := range []uint64{1, 23, 24, 255, 256, 65535, 65536, math.MaxUint32, 1 << 32, math.MaxInt64, math.MaxUint64} {
		switch {
		case v.CanUint() && !v.OverflowUint(n):
			list = append(list, reflect.ValueOf(n).Convert(v.Type()))
		case v.CanInt():
			list = append(list, reflect.ValueOf(int64(n)).Convert(v.Type()), reflect.ValueOf(-int64(n)).Convert(v.Type()))
		}
	}
	if v.Kind() == reflect.String {
		for _, s := range []string{"a", "\xff\x00", string(bytes.Repeat([]byte("x"), 300))} {
			list = append(list, reflect.ValueOf(s).Convert(v.Type()))
		}
	}
	if len(list) == 0 {
		one, n := reflect.New(v.Type()).Elem(), uint64(0)
		fillIn(one, &n)
		list = append(list, one)
	}
	return list
}

// Each field is encoded and decoded as by the general codec: one that is new and
// not known here would be lost.
func TestQuickFields(t *testing.T) {
	for _, m := range quickTypes {
		typ := reflect.TypeOf(m).Elem()
		quick := 0
		leaves(reflect.New(typ).Elem(), typ.Name(), func(leaf reflect.Value, name string) {
			for _, value := range values(leaf) {
				v := reflect.New(typ).Elem()
				leaves(v, typ.Name(), func(l reflect.Value, n string) {
					if n == name {
						l.Set(value)
					}
				})
				want := general(t, v.Interface())
				if got := Marshal(v.Interface()); !bytes.Equal(got, want) {
					t.Fatalf("%s = %v: %x, want %x", name, value, got, want)
				}
				got := reflect.New(typ)
				if quickUnmarshal(want, got.Interface()) {
					quick++
					if !reflect.DeepEqual(got.Elem().Interface(), v.Interface()) {
						t.Fatalf("%s = %v: decoded as %+v", name, value, got.Elem())
					}
				}
			}
		})
		if bare := typ == reflect.TypeFor[Transact](); quick == 0 && !bare { // TestQuickCommit has those with mutations
			t.Errorf("%s: none was decoded quickly", typ.Name())
		}
	}
	for _, m := range []any{filled(&Piece{}), filled(&Read{}), filled(&PositionedRead{})} {
		v := reflect.ValueOf(m).Elem()
		if got, want := quickMarshal(v.Interface()), general(t, m); !bytes.Equal(got, want) {
			t.Errorf("a full %s: %x, want %x", v.Type().Name(), got, want)
		}
	}
}

// The messages of a commit take the quick way, both ways, and mean the same.
func TestQuickCommit(t *testing.T) {
	op := OpID{Session: SessionID{1, 2, 3}, Seq: 77}
	mutations := []Mutation{
		{Kind: MutWriteFile, At: At{1, "small"}, Mode: 0o644, UID: 1000, GID: 1000, Content: Content{Size: 4096, Sum: 1 << 31}, Create: MustNotExist, IfVersion: 1 << 41, Hold: true},
		{Kind: MutWriteFile, At: At{Dir: 1 << 41}, Write: WriteExtents, Ctime: 1 << 60, Extents: []Extent{{Offset: 1 << 33, Size: 4096, Stage: 5, Sum: 6}, {Size: 1}}},
		{Kind: MutDeleteFile, At: At{5, "gone"}, IfIno: 1 << 42, Content: Content{Stage: 9}},
		{Kind: MutSetattr, At: At{Dir: 1 << 41}, Set: SetMode | SetMtimeNow, Mode: 0o600, Mtime: -1, Atime: 1 << 60, Ctime: 1 << 60},
		{Kind: MutWriteFile, At: At{Dir: 1 << 41}, Write: WriteExtents, Set: SetSize, Size: 1 << 40, Extents: []Extent{{Size: 1}}},
		{Kind: MutRename, At: At{1, "a"}, To: At{2, "b"}, Rename: RenameExchange}, {Kind: MutSymlink, At: At{1, "l"}, Target: "to"},
		{Kind: MutSetxattr, At: At{Dir: 7}, Name: "user.x", Value: []byte{0, 1}, Xattr: XattrReplace}, {Kind: MutMknod, At: At{1, "d"}, Rdev: 1 << 20},
		{Kind: MutPunchHole, At: At{Dir: 7}, Offset: 1 << 40, Length: 4096, KeepSize: true},
	}
	all := *filled(&Mutation{}).(*Mutation)
	for i := 2; i <= reflect.TypeFor[Mutation]().NumField(); i++ { // with fewer and fewer fields
		mutations = append(mutations, all)
		if i < reflect.TypeFor[Mutation]().NumField() {
			reflect.ValueOf(&all).Elem().Field(i).SetZero()
		}
	}
	touched := &Touched{Inos: []Ino{1, 1 << 41}, Names: []At{{1, "small"}, {Path: "x"}, {}}, Left: []Ino{7}, Wide: true, MoreLeft: true}
	outcome := Outcome{Tx: 1 << 41, Results: []Result{{Ino: 1 << 41, Created: true, Offset: 4096}, {Ino: 1}}, Orphans: []Ino{3, 4}}
	for _, v := range []any{
		&Transact{Op: op, Link: 3, Lowest: 77, Sent: 1000, Wait: 30000, Mutations: mutations},
		&Down{Entry: &Entry{Index: 9, Kind: EntryPrepare, Prepare: &Prepare{
			Tx: 1 << 41, Config: ConfigID{2, 3}, Op: op, Lowest: 70, Sent: 5, Time: 1 << 60, ServiceTime: 7, W: Position{2, 8}, Mutations: mutations, Keep: true,
		}}},
		&Down{Entry: &Entry{Index: 10, Kind: EntryCommit, Tx: 1 << 41}},
		&Down{W: Position{2, 8}, ServiceTime: 5000},
		&Up{Votes: []Vote{{Index: 9, Tx: 1 << 41, Verdict: VoteYes, Outcome: &outcome, Touched: touched}, {Index: 10}}, Handled: 10, Durable: 9, Free: 1 << 40},
		&TransactReply{Outcome: outcome, ServiceTime: 5000, Touched: touched, Alone: true},
	} {
		want := general(t, v)
		typ := reflect.TypeOf(v).Elem()
		if got := quickMarshal(reflect.ValueOf(v).Elem().Interface()); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", typ.Name(), got, want)
		}
		got := reflect.New(typ)
		if !quickUnmarshal(want, got.Interface()) || !reflect.DeepEqual(got.Interface(), v) {
			t.Errorf("%s: decoded as %+v", typ.Name(), got.Elem())
		}
		for cut := range want {
			got := reflect.New(typ)
			if quickUnmarshal(want[:cut], got.Interface()) || !got.Elem().IsZero() {
				t.Errorf("%s: decoded from %d of its %d bytes", typ.Name(), cut, len(want))
			}
		}
	}
}

// What the quick codec takes is what the general one takes, and means the same.
func TestQuickDecodesAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := quickTypes[rapid.IntRange(0, len(quickTypes)-1).Draw(t, "type")]
		typ := reflect.TypeOf(m).Elem()
		v := reflect.New(typ)
		leaves(v.Elem(), typ.Name(), func(leaf reflect.Value, name string) {
			if k := leaf.Kind(); k != reflect.Slice && k != reflect.Pointer && k != reflect.Bool || rapid.IntRange(0, 9).Draw(t, name) == 0 {
				if some := values(leaf); rapid.Bool().Draw(t, name) {
					leaf.Set(some[rapid.IntRange(0, len(some)-1).Draw(t, name)])
				}
			}
		})
		b, err := encMode.Marshal(v.Interface())
		if err != nil {
			t.Fatal(err)
		}
		switch rapid.IntRange(0, 3).Draw(t, "damage") {
		case 0:
			b = b[:rapid.IntRange(0, len(b)).Draw(t, "cut")]
		case 1:
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		case 2:
			at := rapid.IntRange(0, len(b)).Draw(t, "at")
			b = append(append(bytes.Clone(b[:at]), rapid.Byte().Draw(t, "byte")), b[at:]...)
		}
		before := reflect.New(typ)
		leaves(before.Elem(), "", func(leaf reflect.Value, name string) {
			if leaf.CanUint() {
				leaf.SetUint(7) // what is not there stays
			}
		})
		got, want := reflect.New(typ), reflect.New(typ)
		got.Elem().Set(before.Elem())
		want.Elem().Set(before.Elem())
		if !quickUnmarshal(b, got.Interface()) {
			if !reflect.DeepEqual(got.Interface(), before.Interface()) {
				t.Fatalf("%x was not decoded, but left %+v", b, got.Elem())
			}
			return
		}
		if err := decMode.Unmarshal(b, want.Interface()); err != nil || !reflect.DeepEqual(got.Interface(), want.Interface()) {
			t.Fatalf("%x: %+v, want %+v, error %v", b, got.Elem(), want.Elem(), err)
		}
	})
}

func BenchmarkQuick(b *testing.B) {
	read := Read{Kind: ReadFile, At: At{1, "small"}, Length: -1, Wait: 30000}
	for name, v := range map[string]any{
		"Piece": Piece{Version: 1 << 41, Sum: 1 << 30}, "PositionedRead": PositionedRead{Epoch: Epoch{Number: 5}, Index: 77, Read: read},
		"ReadReply": ReadReply{Attr: Attr{Ino: 1 << 41, Mode: 0o100644, Nlink: 1, Size: 4096, Mtime: 1 << 60, Version: 1 << 41}, Position: Position{5, 77}},
	} {
		encoded, to := Marshal(v), reflect.New(reflect.TypeOf(v)).Interface()
		b.Run(name+"/encode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Marshal(v)
			}
		})
		b.Run(name+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Unmarshal(encoded, to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// No field of a mutation is left out by the codec that is written out.
func TestQuickMutationSaysAll(t *testing.T) {
	full := reflect.ValueOf(filled(&Mutation{})).Elem()
	for i := range full.NumField() {
		m := Mutation{Kind: MutWriteFile, At: At{Dir: 1, Path: "f"}}
		reflect.ValueOf(&m).Elem().Field(i).Set(full.Field(i))
		if got, want := Marshal(m), general(t, m); !bytes.Equal(got, want) {
			t.Errorf("with %s: %x, want %x", full.Type().Field(i).Name, got, want)
		}
		var back Mutation
		if err := Unmarshal(Marshal(m), &back); err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("with %s: %+v, %v, want %+v", full.Type().Field(i).Name, back, err, m)
		}
	}
}
