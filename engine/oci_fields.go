package engine

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ociVerdict says what ctrfs does about a field of the specification.
type ociVerdict string

const (
	ociHonoured  ociVerdict = "honoured"
	ociRefused   ociVerdict = "refused"
	ociElsewhere ociVerdict = "other platforms" // refused, and one row speaks for everything below
)

// ociRow is a line of the table [ociRows].
type ociRow struct {
	path    string     // "mounts[].type", "linux.timeOffsets{}.secs"; a refused row speaks for everything below it, too
	verdict ociVerdict //
	text    string     // what shows it or does it; why not
	cure    string     // of a refused one
	idle    []string   // values of a refused one that ask for nothing, besides null, false, 0, "", [] and {}
	zero    bool       // a refused one asks for something with 0, too
}

// ociField is a field of the specification: a node of the tree of its Go types.
type ociField struct {
	path   string
	fields map[string]*ociField // of an object, by the exact name
	order  []string             // their names in the order of the types
	list   *ociField            // the elements, of an array of objects
	dict   *ociField            // the values, of a map to objects
	open   bool                 // a map: every key is data
	row    *ociRow              // its own, or that of a refused field around it
}

// ociRoot is the whole specification.
var ociRoot = sync.OnceValue(func() *ociField {
	rows := map[string]*ociRow{}
	for i := range ociRows {
		rows[ociRows[i].path] = &ociRows[i]
	}
	return ociFieldOf(reflect.TypeFor[specs.Spec](), "", rows, nil)
})

// ociFieldOf walks a Go type. above is the refused row around it, if there is one.
func ociFieldOf(t reflect.Type, path string, rows map[string]*ociRow, above *ociRow) *ociField {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	f := &ociField{path: path, row: above, open: t.Kind() == reflect.Map}
	if above == nil {
		f.row = rows[path]
	}
	if f.row != nil && f.row.verdict != ociHonoured {
		above = f.row
	}
	switch t.Kind() {
	case reflect.Struct:
		f.fields = map[string]*ociField{}
		f.addFields(t, rows, above)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			f.list = ociFieldOf(t.Elem(), path+"[]", rows, above)
		}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Struct {
			f.dict = ociFieldOf(t.Elem(), path+"{}", rows, above)
		}
	}
	return f
}

func (f *ociField) addFields(t reflect.Type, rows map[string]*ociRow, above *ociRow) {
	for i := range t.NumField() {
		sf := t.Field(i)
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if sf.Anonymous && name == "" { // its fields stand among the others, as encoding/json does it
			f.addFields(sf.Type, rows, above)
			continue
		}
		f.order = append(f.order, name)
		f.fields[name] = ociFieldOf(sf.Type, strings.TrimPrefix(f.path+"."+name, "."), rows, above)
	}
}

// leaves calls visit for every field that holds a value itself, in the order of the types.
func (f *ociField) leaves(visit func(*ociField)) {
	switch {
	case f.fields != nil:
		for _, name := range f.order {
			f.fields[name].leaves(visit)
		}
	case f.list != nil:
		f.list.leaves(visit)
	case f.dict != nil:
		f.dict.leaves(visit)
	default:
		visit(f)
	}
}

// each calls visit for everything directly below a decoded value, in a stable order. What is of the wrong shape has nothing
// below it; encoding/json complains about it.
func (f *ociField) each(at string, node any, visit func(*ociField, string, any) error) error {
	switch v := node.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			sub := f.fields[key] // nil: no such field
			if f.open {
				sub = f.dict
			}
			if f.fields == nil && sub == nil {
				continue
			}
			if err := visit(sub, ociJoin(at, key), v[key]); err != nil {
				return err
			}
		}
	case []any:
		for i, item := range v {
			if f.list == nil {
				break
			}
			if err := visit(f.list, at+"["+strconv.Itoa(i)+"]", item); err != nil {
				return err
			}
		}
	}
	return nil
}

// known refuses a key that is no field. Names count exactly: encoding/json would take "Hooks" for hooks.
func (f *ociField) known(at string, node any) error {
	return f.each(at, node, func(sub *ociField, at string, node any) error {
		if sub == nil {
			return ociError(at, "the specification has no such field", "see docs/oci.md for those it has")
		}
		return sub.known(at, node)
	})
}

// ociRefusal is a field that asks for what ctrfs does not do.
type ociRefusal struct {
	at  string
	row *ociRow
}

// refusals finds them all, so that one look at the sentence is enough to mend a configuration.
func (f *ociField) refusals(at string, node any) (out []ociRefusal) {
	if f.row != nil && (f.row.verdict == ociElsewhere || f.row.verdict == ociRefused && f.fields == nil) {
		if f.asks(node) {
			out = append(out, ociRefusal{at, f.row})
		}
		return out
	}
	_ = f.each(at, node, func(sub *ociField, at string, node any) error {
		out = append(out, sub.refusals(at, node)...)
		return nil
	})
	return out
}

// asks reports whether the value of a refused field asks for anything.
func (f *ociField) asks(node any) bool {
	switch v := node.(type) {
	case bool:
		return v && !slices.Contains(f.row.idle, "true")
	case json.Number:
		n, err := v.Float64()
		return !slices.Contains(f.row.idle, v.String()) && (err != nil || n != 0 || f.row.zero)
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return false
}

// ociOthersMax bounds how many refused fields a sentence names besides the first.
const ociOthersMax = 8

// ociRefuse makes the sentence.
func ociRefuse(all []ociRefusal) error {
	first := all[0]
	e := &Error{Op: "write", File: "config.json", Errno: syscall.EOPNOTSUPP, Cure: first.row.cure,
		Why: first.at + " is not supported: " + first.row.text}
	if len(all) == 1 {
		return e
	}
	var names []string
	for _, r := range all[1:] {
		if cure := r.row.cure; !strings.HasPrefix(cure, ociLeave) {
			r.at += " (" + cure + ")"
		}
		names = append(names, r.at)
	}
	if n := len(names) - ociOthersMax; n > 0 {
		names = append(names[:ociOthersMax], strconv.Itoa(n)+" more")
	}
	e.Cure += "; not supported either: " + strings.Join(names, ", ")
	return e
}
