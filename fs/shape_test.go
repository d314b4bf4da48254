package fs

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrfs/ctrfs/engine"
)

// refusal checks that an error is EINVAL and quotes the value, so that the sentence says what was written.
func refusal(t *testing.T, value string, err error) {
	t.Helper()
	e, ok := errors.AsType[*engine.Error](err)
	if !ok || e.Errno != syscall.EINVAL || e.File == "" || e.Cure == "" {
		t.Errorf("%q: %v is not a full refusal", value, err)
	}
	if value != "" && ok && !strings.Contains(err.Error(), engine.Quote(e.Value)) {
		t.Errorf("%q is not quoted in %v", value, err)
	}
}

func TestParseSize(t *testing.T) {
	for value, want := range map[string]int64{
		"0": 0, "268435456": 268435456, "256M": 256 << 20, "256m": 256 << 20, "1G": 1 << 30, "4k": 4096, "2T": 2 << 40,
		"1P": 1 << 50, "7E": 7 << 60, "max": engine.Max, " 1K\t": 1024, "9223372036854775807": 1<<63 - 1,
	} {
		if n, err := parseSize("memory.max", value); err != nil || n != want {
			t.Errorf("%q: %d, %v, want %d", value, n, err, want)
		}
	}
	for _, value := range []string{"", " ", "-1", "+1", "12x", "x", "M", "1.5G", "1MB", "0x10", "1 G", "maximum", "Max", "1_000",
		"9223372036854775808", "12345678901234567890", "99999999999999999999", "8E", "16777216T", "٣"} {
		_, err := parseSize("memory.max", value)
		refusal(t, value, err)
	}
}

func TestParseCount(t *testing.T) {
	for value, want := range map[string]int64{"0": 0, "32": 32, "max": engine.Max, " 7 ": 7} {
		if n, err := parseCount("pids.max", value); err != nil || n != want {
			t.Errorf("%q: %d, %v, want %d", value, n, err, want)
		}
	}
	for _, value := range []string{"", "-1", "1K", "12x", "99999999999999999999", "9223372036854775808"} {
		_, err := parseCount("pids.max", value)
		refusal(t, value, err)
	}
}

func TestParseInt(t *testing.T) {
	if n, err := parseInt("cpu.weight", "10000", 1, 10000); err != nil || n != 10000 {
		t.Error(n, err)
	}
	for _, value := range []string{"", "0", "10001", "-5", "max", "1e3", "99999999999999999999"} {
		_, err := parseInt("cpu.weight", value, 1, 10000)
		refusal(t, value, err)
	}
}

func TestParseSigned(t *testing.T) {
	for value, want := range map[string]int64{"0": 0, "-1000": -1000, " 1000\n": 1000, "-0": 0} {
		if n, err := parseSigned("oom_score_adj", value, -1000, 1000); n != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", value, n, err, want)
		}
	}
	for _, value := range []string{"", "-", "--1", "+1", "1001", "-1001", "99999999999999999999", "- 1", "1.5"} {
		_, err := parseSigned("oom_score_adj", value, -1000, 1000)
		refusal(t, value, err)
	}
}

func TestParseBandwidth(t *testing.T) {
	type limit struct{ quota, period int64 }
	for value, want := range map[string]limit{
		"max": {engine.Max, 0}, "50000": {50000, 0}, "max 20000": {engine.Max, 20000}, " 5 \t 6 ": {5, 6},
	} {
		if q, p, err := parseBandwidth("cpu.max", value); err != nil || (limit{q, p}) != want {
			t.Errorf("%q: %d %d, %v, want %v", value, q, p, err, want)
		}
	}
	for _, value := range []string{"", "max max", "1 2 3", "-1", "x 100000", "50000 0", "50000 -1", "50% 100000"} {
		_, _, err := parseBandwidth("cpu.max", value)
		refusal(t, value, err)
	}
}

func TestParseLines(t *testing.T) {
	if v, err := parseSingle("cwd", "/a b \n", false); v != "/a b " || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := parseSingle("cmd", "a\n b\n", true); v != "a\n b" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	_, err := parseSingle("cwd", "/a\n/b\n", false)
	refusal(t, "/a\n/b\n", err)
	if l := parseList("A=1\n\nB=2"); !slices.Equal(l, []string{"A=1", "B=2"}) {
		t.Errorf("%q", l)
	}
	if l := parseList("\n"); len(l) != 0 {
		t.Errorf("%q", l)
	}
	pairs, err := parseKeyed("k", "a 1\n b\t2  3 \nc\n")
	if want := []pair{{"a", "1"}, {"b", "2 3"}, {"c", ""}}; err != nil || !slices.Equal(pairs, want) {
		t.Errorf("%v, %v", pairs, err)
	}
	_, err = parseKeyed("k", "a 1\n \t\n")
	refusal(t, " \t", err)
	for _, text := range []string{"a\x00b", "\xff\n", "\xc3("} {
		refusal(t, text, checkText("cmd", text))
	}
}

// FuzzShapes: no text makes a parser panic; what is refused is refused in full; what is taken survives a round trip.
func FuzzShapes(f *testing.F) {
	for _, s := range []string{"", "max", "256M", "12x", "-1", "99999999999999999999", "max 100000", "a b\nc d e\n", "A=1\n\n", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize("f", s); err != nil {
			refusal(t, s, err)
		} else if again, err := parseSize("f", formatLimit(n)); again != n || err != nil || n < engine.Max {
			t.Errorf("size %q: %d, then %d, %v", s, n, again, err)
		}
		if n, err := parseCount("f", s); err != nil {
			refusal(t, s, err)
		} else if again, err := parseCount("f", formatLimit(n)); again != n || err != nil {
			t.Errorf("count %q: %d, then %d, %v", s, n, again, err)
		}
		if n, err := parseSigned("f", s, -1000, 1000); err != nil {
			refusal(t, s, err)
		} else if again, err := parseSigned("f", strconv.FormatInt(n, 10), -1000, 1000); again != n || err != nil || n < -1000 || n > 1000 {
			t.Errorf("number %q: %d, then %d, %v", s, n, again, err)
		}
		if _, _, err := parseBandwidth("f", s); err != nil {
			refusal(t, s, err)
		}
		if _, err := parseSingle("f", s, false); err != nil {
			refusal(t, s, err)
		}
		items := parseList(s)
		if again := parseList(strings.Join(items, "\n") + "\n"); !slices.Equal(items, again) {
			t.Errorf("list %q: %q, then %q", s, items, again)
		}
		if pairs, err := parseKeyed("f", s); err != nil {
			refusal(t, s, err)
		} else if again, err := parseKeyed("f", formatKeyed(pairs)); !slices.Equal(valued(pairs), again) || err != nil {
			t.Errorf("keyed %q: %v, then %v, %v", s, pairs, again, err)
		}
	})
}

// valued leaves out the keys alone, which reset something and are never read.
func valued(pairs []pair) []pair {
	return slices.DeleteFunc(slices.Clone(pairs), func(p pair) bool { return p.value == "" })
}

// FuzzSettings writes a text to every setting: a refusal has changed nothing, and what a setting reads as after a write
// can be written back and reads the same.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{"\n", "a 'b c'", "/x/../y\n", "A=1\nB=2", "50000", "max", "KILL", "ro", "{}", `{"ociVersion":"1.0.2"}`, "1M", "pid host\nnet pod/web", "net", "0 100000 65536",
		"/a /b none bind 0 0", "+NET_ADMIN", `{"defaultAction":"x"}`, "c 1:3 rwm /dev/null", "nofile 1 2", "net.ipv4.ip_forward 1", "1000:www", "-5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range containerScope.rows {
			if !r.setting() {
				continue
			}
			cfg := engine.NewConfig()
			if apply(r, cfg, s, false) != nil {
				continue
			}
			text := show(t, r, cfg)
			again := cfg.Clone()
			if err := apply(r, again, text, false); err != nil {
				t.Errorf("%s: wrote %q, reads %q, which is refused: %v", r.name, s, text, err)
			} else if now := show(t, r, again); now != text {
				t.Errorf("%s: wrote %q, reads %q, then %q", r.name, s, text, now)
			}
		}
	})
}

// apply writes a text to a setting of a configuration.
func apply(r *row, cfg *engine.Config, text string, add bool) error {
	change, err := r.change(text, add, engine.NewConfig())
	if err != nil {
		return err
	}
	return change(cfg)
}

// show reads a setting.
func show(t *testing.T, r *row, cfg *engine.Config) string {
	t.Helper()
	text, err := r.text(source{view: &engine.View{Name: "c", Config: cfg}})
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	return text
}

// TestRows checks that each row is whole, and that a setting's default is what it says and can be written back.
func TestRows(t *testing.T) {
	for _, s := range []*scope{rootScope, containerScope, execScope, imageScope, networkScope} {
		if len(s.byName) != len(s.rows) {
			t.Error("a name stands twice")
		}
		for _, r := range s.rows {
			if r.help == "" || strings.ContainsAny(r.help, "\n|") || r.name == "" || r.shape == "" {
				t.Errorf("%s: not whole", r.name)
			}
			if r.directory() || r.link != nil {
				want, mode := linked, uint32(modeLinks)
				switch {
				case r.link != nil:
					mode = modeLink
				case r.shelf != nil:
					want, mode = nested, modeShelf
				}
				if r.shape != want || r.mode() != mode || r.readable() || r.writable() {
					t.Errorf("%s: more than a directory or a link", r.name)
				}
				continue
			}
			ways := 0
			for _, way := range []bool{r.read != nil, r.wait != nil, r.feed != nil, r.log != nil} {
				if way {
					ways++
				}
			}
			if ways > 1 || ways == 0 && r.act == nil || r.setting() && (r.read == nil || r.act != nil) || (r.take != nil) != (r.shape == archived) {
				t.Errorf("%s: the handlers do not go together", r.name)
			}
			if (r.live || r.def != "" || r.lines) && !r.setting() {
				t.Errorf("%s: says of itself what only a setting is", r.name)
			}
			if (r.shape == stream) != (r.wait != nil || r.feed != nil) || (r.shape == logged || r.shape == archived || r == containerScope.byName["changes"]) != (r.log != nil) || (r.shape == order) != (r.mode() == modeAction) {
				t.Errorf("%s: shape %s does not go with its handlers", r.name, r.shape)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, r := range containerScope.rows {
		if !r.setting() {
			continue
		}
		fresh, cfg := engine.NewConfig(), engine.NewConfig()
		text := show(t, r, cfg)
		if err := apply(r, cfg, text, false); err != nil {
			t.Errorf("%s: the default %q is refused: %v", r.name, text, err)
		}
		change, err := r.reset(engine.NewConfig())
		if err == nil {
			err = change(cfg)
		}
		if now := show(t, r, cfg); now != show(t, r, fresh) || err != nil {
			t.Errorf("%s: reset to %q, %v", r.name, now, err)
		}
		if r.byDefault() == "" {
			t.Errorf("%s: no default to tell", r.name)
		}
	}
}

// TestKeyed: a line changes its key alone, a key alone resets it, an empty line resets all, and one bad line refuses all.
func TestKeyed(t *testing.T) {
	r, cfg := containerScope.byName["rlimits"], engine.NewConfig()
	write := func(text, want string) {
		t.Helper()
		next := cfg.Clone()
		err := apply(r, next, text, false)
		if err == nil {
			cfg = next
		}
		if have := show(t, r, cfg); have != want || want == "" {
			t.Errorf("%q gives %q, %v, want %q", text, have, err, want)
		}
	}
	write("nofile 5\ncore 1 2\n", "core 1 2\nnofile 5 5\n")
	write("core 7\n", "core 7 7\nnofile 5 5\n")
	write("core 8\nnosuch 1\n", "core 7 7\nnofile 5 5\n")
	refusal(t, "nosuch", apply(r, cfg.Clone(), "core 8\nnosuch 1\n", false))
	write("core\nas 1\n", "as 1 1\nnofile 5 5\n")
	write("\n", "\n")
	r, cfg = containerScope.byName["namespaces"], engine.NewConfig()
	fresh := show(t, r, cfg)
	write("net pod/web\npid host\n", strings.NewReplacer("net new", "net pod/web", "pid new", "pid host").Replace(fresh))
	write("net\n", strings.Replace(fresh, "pid new", "pid host", 1))
	write("\n", fresh)
}
