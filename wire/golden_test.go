package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// messages are all headers that cross the wire, by name. The bytes of every
// one are pinned with every field set.
var messages = []any{
	&Attach{}, &Attached{}, &Detach{}, &Transact{}, &TransactReply{}, &SessionStage{}, &StageRequest{}, &StageReply{},
	&Read{}, &ReadReply{}, &Nothing{}, &Statfs{}, &Status{}, &OpStats{}, &Greet{}, &Greeting{}, &PositionedRead{}, &Unstage{},
	&ReplicaStatus{}, &Down{}, &Up{}, &Error{}, &Piece{}, &Moved{}, &Config{}, &Mutation{}, &Vote{}, &Testimony{},
	&StatusRequest{}, &Donate{}, &Donated{}, &Resync{}, &Resynced{}, &LockRequest{}, &LockReply{}, &Watch{}, &Watched{}, &Touched{},
	&Repair{}, &Repaired{}, &Verify{}, &Verified{}, &Compare{}, &Compared{}, &ScrubRequest{}, &ScrubReport{}, &MembersRequest{}, &MembersReply{},
}

// fillIn sets every field of v to something of its own.
func fillIn(v reflect.Value, n *uint64) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillIn(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("cbor") != "-" {
				fillIn(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fillIn(v.Index(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fillIn(v.Index(i), n)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16:
		v.SetUint(*n % 200)
	case reflect.Uint32:
		v.SetUint(*n << 16)
	case reflect.Uint64:
		v.SetUint(*n << 33)
	case reflect.Int, reflect.Int64:
		v.SetInt(-int64(*n << 20))
	case reflect.Float64:
		v.SetFloat(float64(*n) / 4)
	default:
		panic("a field of kind " + v.Kind().String())
	}
}

func filled(m any) any {
	v := reflect.New(reflect.TypeOf(m).Elem())
	n := uint64(0)
	fillIn(v.Elem(), &n)
	return v.Interface()
}

var frameNames = map[FrameKind]string{
	FrameAttach: "Attach", FrameDetach: "Detach", FrameTransact: "Transact", FrameStage: "Stage", FrameRead: "Read",
	FrameStatfs: "Statfs", FrameStatus: "Status", FrameWatch: "Watch", FrameGreet: "Greet", FrameReplicaRead: "ReplicaRead",
	FrameReplicaStage: "ReplicaStage", FrameUnstage: "Unstage", FrameReplicaStatus: "ReplicaStatus", FrameDown: "Down",
	FrameUp: "Up", FrameDonate: "Donate", FrameResync: "Resync", FrameReply: "Reply", FrameError: "Error", FramePiece: "Piece", FrameEnd: "End", FrameMoved: "Moved",
	FrameAdopt: "Adopt", FrameLock: "Lock", FrameRepair: "Repair",
	FrameVerify: "Verify", FrameCompare: "Compare", FrameScrub: "Scrub", FrameMembers: "Members",
}

func goldenLines() []string {
	var lines []string
	for _, m := range messages {
		lines = append(lines, fmt.Sprintf("message %s %x", reflect.TypeOf(m).Elem().Name(), Marshal(filled(m))))
	}
	for kind := FrameKind(1); kind < 128; kind++ {
		if name, ok := frameNames[kind]; ok {
			b := AppendFrame(nil, Frame{Kind: kind, Flags: FlagEnd, Header: []byte{0xa0}, Body: []byte("body")})
			lines = append(lines, fmt.Sprintf("frame %s %x", name, b))
		}
	}
	lines = append(lines, fmt.Sprintf("frame more %x", AppendFrame(nil, Frame{Kind: FrameReply, Flags: FlagMore, Header: []byte{1}})))
	for _, p := range prefaces {
		lines = append(lines, fmt.Sprintf("preface %v %x", p.Role, AppendPreface(nil, p)))
	}
	return lines
}

var prefaces = []Preface{
	{Versions: VersionRange{1, 1}, Role: RoleClient, Channel: ChannelControl, Cluster: UUID{1}, Peer: UUID{2}, Nonce: UUID{3}},
	{Versions: VersionRange{1, 3}, Role: RoleCoordinator, Channel: ChannelBulk, Cluster: UUID{1}, Peer: UUID{2}, Nonce: UUID{3}},
	{Versions: VersionRange{3, 4}, Role: RoleParticipant, Channel: ChannelBulk, Nonce: UUID{3}, Code: CodeProtocol, Refusal: "no"},
}

// Old peers and old journals hold these bytes: a change here cannot talk to them.
func TestGoldenBytes(t *testing.T) {
	name := filepath.Join("testdata", "golden.txt")
	got := strings.Join(goldenLines(), "\n") + "\n"
	if *update {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(got)) {
		sc := bufio.NewScanner(bytes.NewReader(want))
		sc.Buffer(nil, 1<<20)
		for _, line := range goldenLines() {
			if !sc.Scan() || sc.Text() != line {
				t.Errorf("want %s\ngot  %s", sc.Text(), line)
			}
		}
		t.Fatal("an encoding has changed; if old peers are meant to be shut out, give the version a new number")
	}
}

// What is encoded comes back, from the pinned bytes too.
func TestMessagesRoundTrip(t *testing.T) {
	for _, m := range messages {
		want := filled(m)
		got := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		if err := Unmarshal(Marshal(want), got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%T: %v\nwant %+v\ngot  %+v", m, err, want, got)
		}
	}
}

// Every frame kind is pinned, and no two share a number.
func TestFrameKindsAreNamed(t *testing.T) {
	if len(frameNames) != int(FrameScrub-FrameAttach+1+FrameCompare-FrameGreet+1+FrameAdopt-FrameReply+1) {
		t.Fatal("a frame kind is missing in frameNames")
	}
}

// A header from a newer peer has fields that this one does not know.
func TestUnknownFieldsAreSkipped(t *testing.T) {
	newer := struct {
		Link  uint64 `cbor:"1,keyasint"`
		Extra []int  `cbor:"99,keyasint"`
	}{5, []int{1, 2}}
	var a Attached
	if err := Unmarshal(Marshal(newer), &a); err != nil || a.Link != 5 {
		t.Fatal(a, err)
	}
}

// Names of files are bytes, not always UTF-8.
func TestNamesAreBytes(t *testing.T) {
	m := Mutation{Kind: MutDeleteFile, At: At{1, "caf\xe9/\xff"}}
	var got Mutation
	if err := Unmarshal(Marshal(m), &got); err != nil || got.At.Path != m.At.Path {
		t.Fatal(got, err)
	}
}

func hexBytes(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Malformed headers are refused with CodeProtocol, whatever they promise.
func TestMalformedHeaders(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":               {},
		"cut":                 hexBytes(t, "a101"),
		"left over":           hexBytes(t, "a0a0"),
		"twice one key":       hexBytes(t, "a202010202"),
		"indefinite length":   hexBytes(t, "bfff"),
		"a tag":               hexBytes(t, "a101c11a00000000"),
		"huge array":          hexBytes(t, "a1069b00ffffffffffffff"),
		"one mutation more":   append(hexBytes(t, "a1069a00010001"), bytes.Repeat([]byte{0xa0}, MaxMutations+1)...),
		"deep":                append(append(hexBytes(t, "a118"+"63"), bytes.Repeat([]byte{0x81}, 17)...), 0),
		"of another type":     hexBytes(t, "a10163616263"),
		"longer than allowed": make([]byte, MaxMessage+1),
	} {
		var req Transact
		if err := Unmarshal(b, &req); CodeOf(err) != CodeProtocol {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := append(hexBytes(t, "a1069a00010000"), bytes.Repeat([]byte{0xa0}, MaxMutations)...)
	var req Transact
	if err := Unmarshal(b, &req); err != nil || len(req.Mutations) != MaxMutations {
		t.Errorf("the most mutations that are allowed: %v", err)
	}
}
