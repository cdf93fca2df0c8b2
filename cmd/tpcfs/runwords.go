package main

import (
	"fmt"
	"strings"
)

// word is one argument of a request.
type word struct {
	text   string
	quoted bool // it begins with a quotation mark: a text, where a file may stand too
}

// splitWords splits a line into words as a shell does: at blanks, with "...",
// '...', $'...' (\n, \t, \r, \0, \xHH, \\, \', \") and \ before any character, a
// # at a word's beginning starts a comment. Nothing is expanded.
func splitWords(line string) ([]word, error) {
	var words []word
	for rest := line; ; {
		rest = strings.TrimLeft(rest, " \t\r")
		if rest == "" || rest[0] == '#' {
			return words, nil
		}
		w := word{quoted: rest[0] == '"' || rest[0] == '\'' || strings.HasPrefix(rest, "$'")}
		var b strings.Builder
		for rest != "" && !strings.ContainsRune(" \t\r", rune(rest[0])) {
			part, n, err := splitPart(rest)
			if err != nil {
				return nil, err
			}
			b.WriteString(part)
			rest = rest[n:]
		}
		w.text = b.String()
		words = append(words, w)
	}
}

// splitPart reads the next part of a word, and how many bytes of the line it took.
func splitPart(s string) (text string, n int, err error) {
	switch {
	case s[0] == '\'':
		end := strings.IndexByte(s[1:], '\'')
		if end < 0 {
			return "", 0, fmt.Errorf("a ' without its second one")
		}
		return s[1 : 1+end], end + 2, nil
	case s[0] == '"':
		return splitQuoted(s, 1, '"')
	case strings.HasPrefix(s, "$'"):
		return splitQuoted(s, 2, '\'')
	case s[0] == '\\' && len(s) == 1:
		return "", 0, fmt.Errorf(`a \ at the end of the line`)
	case s[0] == '\\':
		return s[1:2], 2, nil
	default:
		n := 1
		for n < len(s) && !strings.ContainsRune(" \t\r\"'\\", rune(s[n])) && !strings.HasPrefix(s[n:], "$'") {
			n++
		}
		return s[:n], n, nil
	}
}

// splitQuoted reads what is quoted from s[begin] to the next end.
func splitQuoted(s string, begin int, end byte) (text string, n int, err error) {
	var b strings.Builder
	for i := begin; i < len(s); i++ {
		switch {
		case s[i] == end:
			return b.String(), i + 1, nil
		case s[i] != '\\' || i+1 == len(s):
			b.WriteByte(s[i])
		case end == '"': // as in a shell, only before what would mean something else
			if strings.IndexByte("\\\"$`", s[i+1]) < 0 {
				b.WriteByte('\\')
			}
			i++
			b.WriteByte(s[i])
		default:
			c, taken, err := escape(s[i+1:])
			if err != nil {
				return "", 0, err
			}
			b.WriteByte(c)
			i += taken
		}
	}
	return "", 0, fmt.Errorf("a %s without its second %c", s[:begin], end)
}

// escape reads what stands after a \ between $' and '.
func escape(s string) (c byte, n int, err error) {
	if i := strings.IndexByte(`ntr0\'"`, s[0]); i >= 0 {
		return "\n\t\r\x00\\'\""[i], 1, nil
	}
	if s[0] == 'x' && len(s) >= 3 {
		if _, err := fmt.Sscanf(s[1:3], "%02x", &c); err == nil {
			return c, 3, nil
		}
	}
	return 0, 0, fmt.Errorf(`\%c is none of \n \t \r \0 \xHH \\ \' \"`, s[0])
}

// The requests that run knows, with the words that they take.
const (
	argName  = iota // a name of the service
	argFile         // a local file
	argData         // a local file, or a quoted text
	argOther        // anything
)

type verb struct {
	use   string
	args  []int
	least int
}

var verbs = map[string]verb{
	"write":   {`write NAME LOCAL|"text"`, []int{argName, argData}, 2},
	"append":  {`append NAME LOCAL|"text"`, []int{argName, argData}, 2},
	"read":    {"read NAME [LOCAL]", []int{argName, argFile}, 1},
	"delete":  {"delete NAME", []int{argName}, 1},
	"mkdir":   {"mkdir NAME", []int{argName}, 1},
	"rmdir":   {"rmdir NAME", []int{argName}, 1},
	"rename":  {"rename FROM TO", []int{argName, argName}, 2},
	"link":    {"link TARGET NAME", []int{argName, argName}, 2},
	"list":    {"list [NAME]", []int{argName}, 0},
	"stat":    {"stat NAME", []int{argName}, 1},
	"symlink": {"symlink TARGET NAME", []int{argOther, argName}, 2},
}

// request is a line that was understood.
type request struct {
	line int
	verb string
	args []word
}

// parseRequest reads a line; nil: there is nothing on it.
func parseRequest(number int, line string) (*request, error) {
	words, err := splitWords(line)
	if err != nil || len(words) == 0 {
		return nil, err
	}
	r := &request{line: number, verb: words[0].text, args: words[1:]}
	v, ok := verbs[r.verb]
	switch {
	case !ok:
		return nil, fmt.Errorf("no request is called %q", r.verb)
	case len(r.args) < v.least || len(r.args) > len(v.args):
		return nil, fmt.Errorf("%d words after %s, the use is: %s", len(r.args), r.verb, v.use)
	}
	for i, arg := range r.args {
		if arg.text == "" && v.args[i] != argData {
			return nil, fmt.Errorf("an empty word, the use is: %s", v.use)
		}
	}
	return r, nil
}

// arg is the i-th argument, or "" where there is none.
func (r *request) arg(i int) string {
	if i < len(r.args) {
		return r.args[i].text
	}
	return ""
}

// touches are the files that a request is about: "/a/b" of the service, ":PATH"
// here. Requests that touch the same file, or one above it, keep their order.
func (r *request) touches() []string {
	var all []string
	v := verbs[r.verb]
	for i, arg := range r.args {
		switch {
		case v.args[i] == argName:
			all = append(all, "/"+strings.Trim(arg.text, "/"))
		case v.args[i] == argFile, v.args[i] == argData && !arg.quoted:
			all = append(all, ":"+arg.text)
		}
	}
	if len(r.args) == 0 { // list of the root
		all = append(all, "/")
	}
	return all
}

// related reports whether two requests have to keep their order.
func related(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if x == y || below(x, y) || below(y, x) {
				return true
			}
		}
	}
	return false
}

// below reports whether x is in the directory y, however deep.
func below(x, y string) bool {
	return y == "/" && x[0] == '/' || strings.HasPrefix(x, y+"/")
}
