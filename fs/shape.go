package fs

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/ctrfs/ctrfs/engine"
)

// shape is the form of a file's text.
type shape string

const (
	single   shape = "single"    // one value
	list     shape = "list"      // one item a line
	keyed    shape = "keyed"     // KEY VALUE... a line
	table    shape = "table"     // a header, and one line a thing
	stream   shape = "stream"    // reading blocks until there is something to say
	order    shape = "action"    // writing does something
	logged   shape = "log"       // what a program wrote, with a true size
	linked   shape = "links"     // a directory of symbolic links, or one
	archived shape = "archive"   // a tar
	nested   shape = "directory" // of things that mkdir makes
)

// maxValue bounds a value, in bytes. It is also the largest WRITE that the kernel sends (256 pages), so that a value
// that a program writes at once arrives at once.
const maxValue = 1 << 20

// checkText refuses what no value may contain: a NUL, which ends a C string in whatever uses the value, and bytes that
// are not UTF-8, which config.json could not hold without changing them.
func checkText(file, text string) error {
	if strings.IndexByte(text, 0) >= 0 {
		return engine.Invalid(file, text, "there is a NUL byte in it", "write text")
	}
	if !utf8.ValidString(text) {
		return engine.Invalid(file, text, "not UTF-8", "write UTF-8 text")
	}
	return nil
}

// isBlank reports whether text is what `echo > file` writes: the empty line that resets a setting.
func isBlank(text string) bool { return strings.Trim(text, "\n") == "" }

// parseSingle reads one value; its final newline is optional. Only values that may hold newlines themselves span lines.
func parseSingle(file, text string, lines bool) (string, error) {
	value := strings.TrimSuffix(text, "\n")
	if !lines && strings.Contains(value, "\n") {
		return "", engine.Invalid(file, text, "more than one line", "write one value")
	}
	return value, nil
}

// parseList reads one item a line. Empty lines are no items, so that an empty line alone empties a list.
func parseList(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return line == "" })
}

// pair is one line of a keyed file.
type pair struct{ key, value string }

// parseKeyed reads KEY VALUE... a line, separated by spaces or tabs. A key alone has an empty value, which resets it.
func parseKeyed(file, text string) ([]pair, error) {
	var pairs []pair
	for _, line := range parseList(text) {
		words := strings.Fields(line)
		if len(words) < 1 {
			return nil, engine.Invalid(file, line, "neither a key nor a value", "write KEY VALUE, one a line")
		}
		pairs = append(pairs, pair{words[0], strings.Join(words[1:], " ")})
	}
	return pairs, nil
}

// formatKeyed renders what parseKeyed reads. A pair without a value is left out.
func formatKeyed(pairs []pair) string {
	var b strings.Builder
	for _, p := range pairs {
		if p.value != "" {
			b.WriteString(p.key + " " + p.value + "\n")
		}
	}
	return b.String()
}

// units are the suffixes of a size, each 1024 times the one before: lib/cmdline.c, memparse.
const units = "KMGTPE"

// parseSize reads bytes as cgroupfs takes them: 268435456, 256M, 1G, in either case, or max. Signs and fractions are
// refused, as is what a 64-bit counter cannot hold.
func parseSize(file, text string) (int64, error) {
	const cure = "write bytes, 256M, 1G or max"
	value := strings.TrimSpace(text)
	if value == "max" {
		return engine.Max, nil
	}
	digits, shift := value, 0
	if n := len(value); n > 0 {
		if i := strings.IndexByte(units, value[n-1]&^0x20); i >= 0 {
			digits, shift = value[:n-1], 10*(i+1)
		}
	}
	n, ok := parseDigits(digits)
	if !ok {
		return 0, engine.Invalid(file, text, "not a size", cure)
	}
	if n > math.MaxInt64>>shift {
		return 0, engine.Invalid(file, text, "larger than any memory", cure)
	}
	return int64(n << shift), nil
}

// parseDigits reads an unsigned decimal number and nothing else: strconv alone would take a sign. Too many digits give
// the largest number, for the caller to find out of range.
func parseDigits(text string) (uint64, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, _ := strconv.ParseUint(text, 10, 64) // on overflow: the largest number
	return n, true
}

// parseCount reads a number of things, or max.
func parseCount(file, text string) (int64, error) {
	value := strings.TrimSpace(text)
	if value == "max" {
		return engine.Max, nil
	}
	n, ok := parseDigits(value)
	if !ok || n > math.MaxInt64 {
		return 0, engine.Invalid(file, text, "not a count", "write a number, or max")
	}
	return int64(n), nil
}

// parseInt reads a number from lo to hi; lo is not negative.
func parseInt(file, text string, lo, hi int64) (int64, error) {
	n, ok := parseDigits(strings.TrimSpace(text))
	if !ok || n < uint64(lo) || n > uint64(hi) {
		return 0, engine.Invalid(file, text, "not a number in range", fmt.Sprintf("write %d to %d", lo, hi))
	}
	return int64(n), nil
}

// parseSigned reads a number from lo to hi, either side of zero.
func parseSigned(file, text string, lo, hi int64) (int64, error) {
	digits, negative := strings.CutPrefix(strings.TrimSpace(text), "-")
	n, ok := parseDigits(digits)
	if ok && n <= math.MaxInt64 {
		value := int64(n)
		if negative {
			value = -value
		}
		if value >= lo && value <= hi {
			return value, nil
		}
	}
	return 0, engine.Invalid(file, text, "not a number in range", fmt.Sprintf("write %d to %d", lo, hi))
}

// parseBandwidth reads "QUOTA [PERIOD]" in microseconds, the quota possibly max. The period is 0 when none was written.
func parseBandwidth(file, text string) (quota, period int64, err error) {
	const cure = "write QUOTA [PERIOD] in microseconds, such as 50000 100000, or max"
	words := strings.Fields(text)
	if len(words) < 1 || len(words) > 2 {
		return 0, 0, engine.Invalid(file, text, "not one or two numbers", cure)
	}
	if quota, err = parseCount(file, words[0]); err != nil {
		return 0, 0, engine.Invalid(file, text, "the quota is not a number", cure)
	}
	if len(words) == 2 {
		if period, err = parseInt(file, words[1], 1, math.MaxInt64); err != nil {
			return 0, 0, engine.Invalid(file, text, "the period is not a number", cure)
		}
	}
	return quota, period, nil
}

// tooBig is the refusal of a value beyond maxValue.
func tooBig(file string) error {
	return &engine.Error{Op: "write", File: file, Errno: syscall.E2BIG, Why: "the value is larger than 1 MiB",
		Cure: "write at most 1048576 bytes, at once and ending in a newline"}
}
