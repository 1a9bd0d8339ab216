// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The parser's time and memory grow with the square of the size and of the
// depth. The contract's file has a depth of five; the largest sensible one is
// half of this size.
const (
	maxFile  = 64 << 10
	maxDepth = 16
)

// value is a scalar with its place.
type value[T any] struct {
	v   T
	at  pos
	set bool
}

func (v *value[T]) put(x T, at pos) { *v = value[T]{v: x, at: at, set: true} }

// list is a sequence of texts with its place.
type list struct {
	items []value[string]
	at    pos
	set   bool
}

// field is one key of an object and what takes its value.
type field struct {
	key  string
	take func(key *ast.MappingValueNode)
}

// decoder walks the syntax tree into the raw structs. It is strict: a key
// nobody takes, a key given twice and a value of another type are mistakes.
type decoder struct{ *report }

// document parses src to its one top-level value, nil after a mistake.
func (d decoder) document(src []byte) ast.Node {
	if len(src) > maxFile {
		d.add(pos{1, 1}, "the file has %d bytes, the limit is %d; use address ranges instead of single entries", len(src), maxFile)
		return nil
	}
	for i, line := range d.lines {
		if !utf8.ValidString(line) {
			d.add(pos{i + 1, 1}, "the line is not UTF-8; save the file as UTF-8")
			return nil
		}
		if strings.Contains(strings.TrimSuffix(line, "\r"), "\r") { // to the parser each is the end of a line
			d.add(pos{i + 1, 1}, "the line has carriage returns within it; save the file with the ends of lines of Unix")
			return nil
		}
	}
	tokens := lexer.Tokenize(string(src))
	if at, deep := tooDeep(tokens); deep {
		d.add(at, "more than %d levels of brackets or dashes; close some, a configuration needs five", maxDepth)
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil
	}
	var docs []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc.Body)
		}
	}
	switch len(docs) {
	case 0:
		d.add(pos{1, 1}, "the file is empty; write at least cluster, secret_file, arbiter, nodes and identities")
		return nil
	case 1:
		return docs[0]
	}
	d.add(at(docs[1]), "a second document; write one document and no --- between its parts")
	return nil
}

// tooDeep finds the bracket, or the dash in one line, that nests too far.
func tooDeep(tokens token.Tokens) (pos, bool) {
	brackets, dashes, line := 0, 0, 0
	for _, t := range tokens {
		at := tokenPos(t)
		if at.line != line {
			dashes, line = 0, at.line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType:
			dashes++
		}
		if brackets > maxDepth || dashes > maxDepth {
			return at, true
		}
	}
	return pos{}, false
}

func (d decoder) syntax(err error) {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		d.add(pos{1, 1}, "not YAML: %v; correct the file", err)
		return
	}
	d.add(tokenPos(ye.GetToken()), "not YAML: %s; correct the indentation, quotes or brackets here", ye.GetMessage())
}

func tokenPos(t *token.Token) pos {
	if t == nil || t.Position == nil {
		return pos{1, 1}
	}
	return pos{t.Position.Line, t.Position.Column}
}

// at is where a value starts; a block mapping starts at its first key.
func at(n ast.Node) pos {
	switch n := n.(type) {
	case nil:
		return pos{1, 1}
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return at(n.Values[0])
		}
	case *ast.MappingValueNode:
		return tokenPos(n.Key.GetToken())
	}
	return tokenPos(n.GetToken())
}

// object reads a mapping with known keys. what completes "KEY is not a key of …".
func (d decoder) object(n ast.Node, what string, fields ...field) {
	d.entries(n, what, func(kv *ast.MappingValueNode, key string) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			d.add(at(kv), "%q is not a key of %s; %s", key, what, instead(key, keysOf(fields)))
			return
		}
		fields[i].take(kv)
	})
}

// named reads a mapping whose keys are names.
func (d decoder) named(n ast.Node, what string, take func(name value[string], kv *ast.MappingValueNode)) {
	d.entries(n, what, func(kv *ast.MappingValueNode, key string) {
		if !nameOK(key) {
			d.add(at(kv), "%q cannot be a name; %s", key, nameHelp)
			return
		}
		take(value[string]{v: key, at: at(kv), set: true}, kv)
	})
}

// entries calls take for each key of a mapping, once.
func (d decoder) entries(n ast.Node, what string, take func(*ast.MappingValueNode, string)) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		d.wrongType(n, what, "keys with values, as in {key: value}")
		return
	}
	seen := map[string]int{}
	for _, kv := range values {
		if _, ok := kv.Key.(*ast.MergeKeyNode); ok {
			d.add(at(kv), "merge keys are not read; write the keys out")
			continue
		}
		key := kv.Key.GetToken().Value
		if line, dup := seen[key]; dup {
			d.add(at(kv), "%q is given twice, first in line %d; remove one of them", key, line)
			continue
		}
		seen[key] = at(kv).line
		take(kv, key)
	}
}

const nameHelp = "write letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 63"

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func nameOK(s string) bool { return nameRE.MatchString(s) }

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

// instead says what to write for a word that is not in known.
func instead(word string, known []string) string {
	best, bestDist := "", 3
	for _, k := range known {
		if dist := distance(word, k); dist < bestDist {
			best, bestDist = k, dist
		}
	}
	if best != "" {
		return fmt.Sprintf("write %s", best)
	}
	return fmt.Sprintf("write one of %s", strings.Join(known, ", "))
}

// distance is Levenshtein's, cut short for words that cannot be near.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (d decoder) wrongType(n ast.Node, what, want string) {
	switch n.(type) {
	case nil, *ast.NullNode:
		d.add(at(n), "%s has no value; write %s", what, want)
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		d.add(at(n), "%s is %s, which is not read; write the value out: %s", what, typeName(n), want)
	default:
		d.add(at(n), "%s is %s; write %s", what, typeName(n), want)
	}
}

func typeName(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode:
		return "a bare number"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a bare number with a fraction"
	case *ast.BoolNode:
		return "true or false"
	case *ast.AnchorNode, *ast.AliasNode:
		return "a YAML anchor or alias"
	case *ast.TagNode:
		return "a YAML tag"
	}
	return "a " + strings.ToLower(n.Type().String())
}

// text reads a scalar; example is what a right one looks like.
func (d decoder) text(key string, out *value[string], example string) field {
	return field{key, func(kv *ast.MappingValueNode) {
		if s, ok := d.scalar(kv.Value, key, example); ok {
			out.put(s, at(kv.Value))
		}
	}}
}

func (d decoder) scalar(n ast.Node, what, example string) (string, bool) {
	var s string
	switch n := n.(type) {
	case *ast.StringNode:
		s = n.Value
	case *ast.LiteralNode:
		s = n.Value.Value
	default:
		want := "a text, as in " + example
		switch n.(type) {
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
			want = fmt.Sprintf("it in quotes if it is meant, as in %q", n.GetToken().Value)
		}
		d.wrongType(n, what, want)
		return "", false
	}
	switch {
	case strings.TrimSpace(s) == "":
		d.add(at(n), "%s is empty; write %s", what, example)
		return "", false
	case strings.ContainsRune(s, 0):
		d.add(at(n), "%s contains a zero byte; remove it", what)
		return "", false
	}
	return s, true
}

// name reads a text that is a name.
func (d decoder) name(key string, out *value[string], example string) field {
	return field{key, func(kv *ast.MappingValueNode) {
		s, ok := d.scalar(kv.Value, key, example)
		if ok && !nameOK(s) {
			d.add(at(kv.Value), "%s %q cannot be a name; %s", key, s, nameHelp)
			ok = false
		}
		if ok {
			out.put(s, at(kv.Value))
		}
	}}
}

// choice reads a text that is one of a few words.
func (d decoder) choice(key string, out *value[string], words ...string) field {
	return field{key, func(kv *ast.MappingValueNode) {
		s, ok := d.scalar(kv.Value, key, words[0])
		if !ok {
			return
		}
		if !slices.Contains(words, s) {
			d.add(at(kv.Value), "%s cannot be %q; %s", key, s, instead(s, words))
			return
		}
		out.put(s, at(kv.Value))
	}}
}

// duration reads a time with its unit, both bounds included.
func (d decoder) duration(key string, out *value[time.Duration], lo, hi time.Duration, example string) field {
	return field{key, func(kv *ast.MappingValueNode) {
		n := kv.Value
		var s string
		switch n := n.(type) {
		case *ast.StringNode:
			s = n.Value
		default:
			d.wrongType(n, key, "a time with its unit, as in "+example)
			return
		}
		v, err := time.ParseDuration(s)
		switch {
		case err != nil:
			d.add(at(n), "%s %q is not a time; write a number with ns, us, ms, s, m or h, as in %s", key, s, example)
		case !exact(s, v):
			d.add(at(n), "%s %s is finer than a nanosecond; write whole nanoseconds", key, s)
		case v < lo || v > hi:
			d.add(at(n), "%s %s is out of range; write %s to %s, as in %s", key, s, short(lo), short(hi), example)
		default:
			out.put(v, at(n))
		}
	}}
}

var durationPart = regexp.MustCompile(`([0-9.]+)([a-zµμ]+)`)

// exact reports whether ParseDuration cut nothing off.
func exact(s string, v time.Duration) bool {
	sum := new(big.Rat)
	for _, m := range durationPart.FindAllStringSubmatch(s, -1) {
		unit, err := time.ParseDuration("1" + m[2])
		x, ok := new(big.Rat).SetString(m[1])
		if err != nil || !ok {
			return false
		}
		sum.Add(sum, x.Mul(x, new(big.Rat).SetInt64(int64(unit))))
	}
	return sum.Cmp(new(big.Rat).SetInt64(int64(v.Abs()))) == 0 || s == "0" || s == "+0" || s == "-0"
}

// short writes a duration as people do: 100us, 1s, 1m.
func short(v time.Duration) string {
	s := strings.Replace(v.String(), "µs", "us", 1)
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// integer reads a whole number, both bounds included.
func (d decoder) integer(key string, out *value[int], lo, hi int) field {
	return field{key, func(kv *ast.MappingValueNode) {
		node, ok := kv.Value.(*ast.IntegerNode)
		if !ok {
			d.wrongType(kv.Value, key, fmt.Sprintf("a whole number from %d to %d", lo, hi))
			return
		}
		var v int64 = -1
		switch x := node.Value.(type) {
		case int64:
			v = x
		case uint64:
			v = int64(min(x, 1<<62))
		}
		if v < int64(lo) || v > int64(hi) {
			d.add(at(node), "%s %s is out of range; write a whole number from %d to %d", key, node.Token.Value, lo, hi)
			return
		}
		out.put(int(v), at(node))
	}}
}

func (d decoder) boolean(key string, out *value[bool]) field {
	return field{key, func(kv *ast.MappingValueNode) {
		n, ok := kv.Value.(*ast.BoolNode)
		if !ok {
			d.wrongType(kv.Value, key, "true or false")
			return
		}
		out.put(n.Value, at(n))
	}}
}

// texts reads a list of texts.
func (d decoder) texts(key string, out *list, example string) field {
	return field{key, func(kv *ast.MappingValueNode) {
		seq, ok := kv.Value.(*ast.SequenceNode)
		if !ok {
			want := "a list, as in [" + example + "]"
			if s, isText := kv.Value.(*ast.StringNode); isText && s.Value != "" {
				want = "a list, as in [" + s.Value + "]"
			}
			d.wrongType(kv.Value, key, want)
			return
		}
		out.at, out.set = at(seq), true
		for _, n := range seq.Values {
			if _, ok := n.(*ast.MappingNode); ok { // as an IPv6 address without quotes reads
				d.add(at(n), "an entry of %s is a mapping; put it in quotes if it is meant as a text", key)
				continue
			}
			if s, ok := d.scalar(n, "an entry of "+key, example); ok {
				out.items = append(out.items, value[string]{v: s, at: at(n), set: true})
			}
		}
	}}
}

// inside reads an object below key.
func (d decoder) inside(key string, fields ...field) field {
	return field{key, func(kv *ast.MappingValueNode) { d.object(kv.Value, key, fields...) }}
}
