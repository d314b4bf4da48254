package fs

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// row declares one file of the tree. What a file can do follows from which handlers it has.
type row struct {
	name  string
	shape shape
	live  bool   // a setting that takes effect at once; without it, EBUSY while the container is active
	exact bool   // a keyed file whose values keep the spaces between their words
	lines bool   // a single value that may span lines
	mine  bool   // who is not root reads of containers that he can see only
	def   string // the default in words, where the text that a new container's file has would not do
	help  string // one line

	read reader                                                   // text, made anew for each reading
	wait *waiting                                                 // a stream: blocks, then gives the whole text
	feed func(source) engine.Events                               // a stream that goes on: a line an event, from the opening on
	log  *stored                                                  // a file of its own, read where it lies
	take func(by engine.Caller, s source) (io.WriteCloser, error) // what is written goes on until the file is closed
	set  setter                                                   // a setting of one value
	list *listing                                                 // a setting of many items
	keys func(c *engine.Config, key, value string) error          // a setting of many keys, each changed alone; "" resets one
	tune func(c *engine.NetworkConfig, text string) error         // a setting of a network, the whole text; "" is the default
	act  func(by engine.Caller, s source, value string) error     // an order, or a kernel file that is written

	links  *linking                             // a directory of links; nothing else goes with it
	link   func(engine.Program) (string, bool)  // a link, while it is there; likewise
	shelf  *shelving                            // a directory of things; likewise
	reach  func(engine.Program) (string, error) // makes what the link leads to, when it is followed; nil: it is there
	absent string                               // what to do when the link is not there
}

// source is what a reader makes text from. In the root there is no container and no view.
type source struct {
	tree *tree
	c    engine.Container // itself, or the one around an exec
	p    engine.Program   // whom the file is about
	view *engine.View     // of p

	image   engine.Image   // whom it is about instead
	network engine.Network // likewise

	sight *sight // what the reader of a personal file can see
}

// waiting is a stream that ends with what has happened.
type waiting struct {
	until func(context.Context, source) (string, error)
	now   func(source) (text string, ok bool) // what it would give without blocking
}

// of is the same about one source.
func (w *waiting) of(s source) until {
	return func(ctx context.Context) (string, error) { return w.until(ctx, s) }
}

// stored is a file that lies somewhere, with its size at any moment.
type stored struct {
	open func(source) (engine.Log, error)
	size func(source) int64
}

// reader makes the text of a file, with or without its final newline. It is called without any lock, and may take as long
// as the kernel takes to answer, but waits for nothing.
type reader func(source) (string, error)

// setter parses a value and returns the change that it asks for.
type setter func(file, value string) (func(*engine.Config) error, error)

// listing is a setting of many items.
type listing struct {
	get func(*engine.Config) []string
	set func(*engine.Config, []string) error
}

// Permission bits by use: find -perm and ls -l document the tree.
const (
	modeSetting = 0o644
	modeState   = 0o444
	modeAction  = 0o200
	modeLinks   = 0o555
	modeShelf   = 0o755
	modeLink    = 0o777
)

// What a row can do. Everything else that depends on the kind of a file asks one of these, so that a new kind of handler
// is a change in one place.
func (r *row) readable() bool { return r.read != nil || r.wait != nil || r.feed != nil || r.log != nil }
func (r *row) writable() bool { return r.setting() || r.act != nil || r.take != nil }
func (r *row) setting() bool {
	return r.set != nil || r.list != nil || r.keys != nil || r.tune != nil
}

// directory reports whether the row is one: its node is made elsewhere.
func (r *row) directory() bool { return r.links != nil || r.shelf != nil }

// mode computes the permission bits from the handlers, so that ls cannot disagree with the code.
func (r *row) mode() uint32 {
	switch {
	case r.links != nil:
		return modeLinks
	case r.shelf != nil:
		return modeShelf
	case r.link != nil:
		return modeLink
	case !r.writable():
		return modeState
	case !r.readable():
		return modeAction
	}
	return modeSetting
}

// text is the whole content of a file that has a reader. An empty setting is an empty line, which is what resets one
// when it is written: `cat a/cmd > b/cmd` copies also nothing. Empty state is an empty file: `test -s error`.
func (r *row) text(s source) (string, error) {
	text, err := r.read(s)
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(text, "\n") && (text != "" || r.setting()) {
		text += "\n"
	}
	return text, nil
}

// change parses what was written and returns what it does to a configuration. With add, items join a list. What is reset becomes
// what it is in the fresh one.
func (r *row) change(text string, add bool, fresh *engine.Config) (func(*engine.Config) error, error) {
	if err := checkText(r.name, text); err != nil {
		return nil, err
	}
	switch {
	case r.list != nil:
		return r.changeList(parseList(text), add), nil
	case isBlank(text):
		return r.reset(fresh)
	case r.keys != nil:
		return r.changeKeys(text)
	}
	value, err := parseSingle(r.name, text, r.lines)
	if err != nil {
		return nil, err
	}
	return r.set(r.name, value)
}

// changeList makes the items the list, or with add its end. The bound holds for the list as a whole: a longer one could be
// read, but not written back.
func (r *row) changeList(items []string, add bool) func(*engine.Config) error {
	return func(c *engine.Config) error {
		all := items
		if add {
			all = slices.Concat(r.list.get(c), items)
		}
		if len(strings.Join(all, "\n"))+1 > maxValue {
			return tooBig(r.name)
		}
		return r.list.set(c, all)
	}
}

// changeKeys changes the keys written and no other. All are tried on one copy, so one bad line refuses all of them.
func (r *row) changeKeys(text string) (func(*engine.Config) error, error) {
	pairs, err := r.pairs(text)
	return func(c *engine.Config) error {
		for _, p := range pairs {
			if err := r.keys(c, p.key, p.value); err != nil {
				return err
			}
		}
		return nil
	}, err
}

// reset returns the change that makes a setting what a fresh configuration has: its own text, read from there and set here; of
// keys, each that is set.
func (r *row) reset(fresh *engine.Config) (func(*engine.Config) error, error) {
	if r.list != nil {
		return r.changeList(r.list.get(fresh), false), nil
	}
	if r.keys != nil {
		return r.resetKeys, nil
	}
	text, err := r.read(source{view: &engine.View{Config: fresh}})
	if err != nil {
		return nil, err
	}
	return r.set(r.name, strings.TrimSuffix(text, "\n"))
}

// pairs reads the lines of a keyed file.
func (r *row) pairs(text string) ([]pair, error) {
	pairs, err := parseKeyed(r.name, text)
	if err != nil || !r.exact {
		return pairs, err
	}
	for i, line := range parseList(text) {
		pairs[i].value = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), pairs[i].key))
	}
	return pairs, nil
}

// resetKeys resets every key that the file shows.
func (r *row) resetKeys(c *engine.Config) error {
	text, err := r.read(source{view: &engine.View{Config: c}})
	if err != nil {
		return err
	}
	pairs, err := r.pairs(text)
	for _, p := range pairs {
		if err == nil {
			err = r.keys(c, p.key, "")
		}
	}
	return err
}

// byDefault is what a setting of a new container is, in one line; empty for anything else.
func (r *row) byDefault() string {
	if r.def != "" || !r.setting() || r.tune != nil {
		return r.def
	}
	text, _ := r.read(source{view: &engine.View{Config: engine.NewConfig()}})
	return strings.TrimSpace(strings.ReplaceAll(text, "\n", " "))
}

// Readers, by what they look at.

// inSight reads what depends on who reads.
func inSight(get func(*tree, *sight) string) reader {
	return func(s source) (string, error) { return get(s.tree, s.sight), nil }
}

func inRoot(get func(*tree) string) reader {
	return func(s source) (string, error) { return get(s.tree), nil }
}

func ofConfig(get func(*engine.Config) string) reader {
	return func(s source) (string, error) { return get(s.view.Config), nil }
}

func ofView(get func(*engine.View) string) reader {
	return func(s source) (string, error) { return get(s.view), nil }
}

func ofProgram(get func(engine.Program) (string, error)) reader {
	return func(s source) (string, error) { return get(s.p) }
}

func ofContainer(get func(engine.Container) (string, error)) reader {
	return func(s source) (string, error) { return get(s.c) }
}

// ofControl reads a resource by its cgroup v2 name.
func ofControl(name string) reader {
	return func(s source) (string, error) { return s.c.ReadControl(name) }
}

// Setters, by the shape of their value. The parsing is done before the engine is asked, so that a malformed value is EINVAL
// also while the container is busy, and no lock is held for it.

func asText(set func(*engine.Config, string) error) setter {
	return func(_, value string) (func(*engine.Config) error, error) {
		return func(c *engine.Config) error { return set(c, value) }, nil
	}
}

func asNumber(parse func(file, value string) (int64, error), set func(*engine.Config, int64) error) setter {
	return func(file, value string) (func(*engine.Config) error, error) {
		n, err := parse(file, value)
		return func(c *engine.Config) error { return set(c, n) }, err
	}
}

// within parses a number from lo to hi.
func within(lo, hi int64) func(file, value string) (int64, error) {
	return func(file, value string) (int64, error) { return parseInt(file, value, lo, hi) }
}

// signed parses a number from lo to hi, either side of zero.
func signed(lo, hi int64) func(file, value string) (int64, error) {
	return func(file, value string) (int64, error) { return parseSigned(file, value, lo, hi) }
}

// formatLimit renders a limit as the kernel does.
func formatLimit(n int64) string {
	if n == engine.Max {
		return "max"
	}
	return fmt.Sprint(n)
}

// Orders, by who obeys.

func toProgram(act func(by engine.Caller, p engine.Program, value string) error) func(engine.Caller, source, string) error {
	return func(by engine.Caller, s source, value string) error { return act(by, s.p, value) }
}

func toContainer(act func(by engine.Caller, c engine.Container, value string) error) func(engine.Caller, source, string) error {
	return func(by engine.Caller, s source, value string) error {
		if s.p != engine.Program(s.c) { // an exec of it
			return syscall.EOPNOTSUPP
		}
		return act(by, s.c, value)
	}
}

// writeControl hands a value to a kernel file that is an order.
func writeControl(name string) func(engine.Caller, source, string) error {
	return toContainer(func(by engine.Caller, c engine.Container, value string) error {
		value = strings.TrimSpace(value)
		if value == "" {
			return engine.Invalid(name, value, "nothing was written", "write a value")
		}
		return c.WriteControl(by, name, value)
	})
}

// family is a part of the table with a title, in the order of the documentation.
type family struct {
	title string
	rows  []row
}

// The kinds of directory: the mount's own, a container's, an exec's, an image's, and a network's.
var (
	rootScope      = newScope(family{"The root of the mount", rootRows})
	containerScope = newScope(
		family{"A container: its process", processRows},
		family{"A container: its files", filesRows},
		family{"A container: its isolation", isolationRows},
		family{"A container: its networks", netRows},
		family{"A container: control and state", controlRows},
		family{"A container: resources", slices.Concat(resourceRows, networkRows)},
		family{"A container: its sockets", listenRows},
	)
	execScope    = newScope(family{"An exec of a container: exec/NAME", execRows})
	imageScope   = newScope(family{"An image: images/NAME", imageRows})
	networkScope = newScope(family{"A network: networks/NAME", networksRows})
)

// scope is the files that a kind of directory holds. It never changes.
type scope struct {
	families []family
	rows     []*row // in order
	byName   map[string]*row
}

// newScope keeps pointers into the tables: rows are never copied, so a test that looks at one looks at the one in use.
func newScope(families ...family) *scope {
	s := &scope{families: families, byName: map[string]*row{}}
	for _, f := range families {
		for i := range f.rows {
			r := &f.rows[i]
			s.rows = append(s.rows, r)
			s.byName[r.name] = r
		}
	}
	return s
}

// unwritable is the refusal of a write to a file that only tells. Its mode says so, but root is not asked for modes.
func (r *row) unwritable() error {
	return &engine.Error{Op: "write", File: r.name, Errno: syscall.EACCES, Why: "it is state, and is only read",
		Cure: "write a setting or an action; ls -l tells them apart by mode"}
}
