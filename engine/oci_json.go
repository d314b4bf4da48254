package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"syscall"
)

// Bounds of a config.json. The tree takes no longer value than this, and no field lies nearly as deep.
const (
	ociSizeMax  = 1 << 20
	ociDepthMax = 32
)

// ociError is the error of a malformed config.json; path is the field, "" for the whole.
func ociError(path, why, cure string) *Error {
	if path != "" {
		why = path + ": " + why
	}
	return &Error{Op: "write", File: "config.json", Errno: syscall.EINVAL, Why: why, Cure: cure}
}

// ociJSON decodes text into maps, slices, strings, numbers and booleans. It is stricter than encoding/json, which takes the
// last of two equal keys, where another reader may take the first: what was checked must be what runs.
func ociJSON(data []byte) (any, error) {
	const cure = "write an OCI runtime specification, such as another container's config.json"
	if len(data) > ociSizeMax {
		return nil, &Error{Op: "write", File: "config.json", Errno: syscall.E2BIG, Cure: fmt.Sprintf("write at most %d bytes", ociSizeMax)}
	}
	if err := ociSyntax(data); err != nil {
		e := ociError("", "not an OCI runtime specification"+lineOf(data, err), cure)
		e.Err = err
		return nil, e
	}
	r := &ociReader{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	node, err := r.value("", 0)
	if err != nil {
		return nil, err
	}
	if _, ok := node.(map[string]any); !ok {
		return nil, ociError("", "not an OCI runtime specification: it is no object", cure)
	}
	return node, nil
}

// ociSyntax checks the syntax of all of data. Text that is cut short is [io.ErrUnexpectedEOF]: the rest may be in the next
// write(2).
func ociSyntax(data []byte) error {
	var whole json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&whole); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("there is more after it")
	}
	return nil
}

// lineOf says where in data a syntax error is.
func lineOf(data []byte, err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok && e.Offset <= int64(len(data)) {
		return fmt.Sprintf(", line %d", 1+bytes.Count(data[:e.Offset], []byte("\n")))
	}
	return ""
}

// ociReader reads JSON whose syntax is known to be right.
type ociReader struct {
	data []byte
	dec  *json.Decoder
}

// value reads the next value, which lies at path.
func (r *ociReader) value(path string, depth int) (any, error) {
	if depth > ociDepthMax {
		return nil, ociError("", "nested too deeply", "no field of the specification lies as deep")
	}
	token, err := r.token(path)
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		return r.array(path, depth)
	case json.Delim('{'):
		return r.object(path, depth)
	}
	return token, nil
}

func (r *ociReader) array(path string, depth int) (any, error) {
	out := []any{}
	for r.dec.More() {
		at := fmt.Sprintf("%s[%d]", path, len(out))
		v, err := r.value(at, depth+1)
		if err == nil && v == nil {
			err = ociError(at, "null", "leave it out") // encoding/json makes "" or 0 of it
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := r.token(path)
	return out, err
}

func (r *ociReader) object(path string, depth int) (any, error) {
	out := map[string]any{}
	for r.dec.More() {
		token, err := r.token(path)
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		at := ociJoin(path, key)
		if _, dup := out[key]; dup {
			return nil, ociError(at, "given twice", "write it once")
		}
		if out[key], err = r.value(at, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := r.token(path)
	return out, err
}

// token reads the next token. It refuses text that cannot arrive as it is written: every string of a configuration ends at a
// NUL in the kernel, and encoding/json has replaced bytes that are not UTF-8, and halves of surrogate pairs, by U+FFFD.
func (r *ociReader) token(path string) (json.Token, error) {
	start := r.dec.InputOffset()
	token, err := r.dec.Token()
	if err != nil {
		return nil, ociError(path, err.Error(), "")
	}
	text, ok := token.(string)
	if !ok {
		return token, nil
	}
	const substitute = "\uFFFD"
	bad := strings.Count(text, substitute)
	if bad > 0 {
		raw := r.data[start:r.dec.InputOffset()]
		bad -= bytes.Count(raw, []byte(substitute)) + bytes.Count(bytes.ToLower(raw), []byte(`\ufffd`))
	}
	if bad > 0 || strings.Contains(text, "\x00") {
		return nil, ociError(path, "not UTF-8 without NUL", "write text")
	}
	return token, nil
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ociJoin appends a key to a path, as jq(1) writes paths.
func ociJoin(path, key string) string {
	switch {
	case !plainKey.MatchString(key):
		return fmt.Sprintf("%s[%s]", path, Quote(key))
	case path == "":
		return key
	}
	return path + "." + key
}
