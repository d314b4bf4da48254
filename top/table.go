package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// column is one column of numbers on the screen.
type column struct {
	title string
	from  string  // the column of stats
	rate  bool    // what it has grown by, each second
	scale float64 // what one is worth
	show  func(float64) string
}

// columns are shown from the left as far as the terminal is wide, after the name and the state.
var columns = []column{
	{title: "CPU%", from: "CPU_USEC", rate: true, scale: 100e-6, show: func(n float64) string { return fmt.Sprintf("%.1f", n) }},
	{title: "MEMORY", from: "MEMORY", scale: 1, show: size},
	{title: "PIDS", from: "PIDS", scale: 1, show: func(n float64) string { return fmt.Sprintf("%.0f", n) }},
	{title: "READ/s", from: "IO_READ", rate: true, scale: 1, show: size},
	{title: "WRITE/s", from: "IO_WRITE", rate: true, scale: 1, show: size},
	{title: "RX/s", from: "NET_RX", rate: true, scale: 1, show: size},
	{title: "TX/s", from: "NET_TX", rate: true, scale: 1, show: size},
	{title: "TIME", from: "CPU_USEC", scale: 1e-6, show: func(n float64) string { return fmt.Sprintf("%.2f", n) }},
	{title: "PEAK", from: "MEMORY_PEAK", scale: 1, show: size},
}

// Widths, in characters.
const (
	numberWidth = 9
	stateWidth  = 9
	nameMin     = 8
)

// size renders bytes by the suffixes that the files take.
func size(n float64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%.0f", n)
	}
	i := -1
	for ; n >= 1024 && i < len(units)-1; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%.1f%c", n, units[i])
}

// table is what is on the screen.
type table struct {
	dir       string
	now, last reading
	by        int  // what it is sorted by: 0 the name, 1 the state, then columns
	up        bool // the least first
	skip      int  // rows that are scrolled out at the top
}

// newTable shows those first that use most of the processor.
func newTable(dir string) *table { return &table{dir: dir, by: 2} }

// add takes the next reading.
func (t *table) add(r reading) { t.last, t.now = t.now, r }

// row is one container with its numbers, one for each column.
type row struct {
	container
	values []value
}

type value struct {
	n    float64
	some bool // there is such a number
}

// rows computes and sorts. What has no number comes last; those alike are sorted by name.
func (t *table) rows() []row {
	before := map[string]container{}
	for _, c := range t.last.containers {
		before[c.name] = c
	}
	elapsed := t.now.at.Sub(t.last.at)
	var all []row
	for _, c := range t.now.containers {
		r := row{container: c}
		for _, k := range columns {
			r.values = append(r.values, k.value(c, before[c.name], elapsed))
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, t.compare)
	return all
}

// value is the number of a container now, or its growth. A counter that went back belongs to another run: nothing is known.
func (k *column) value(now, before container, elapsed time.Duration) value {
	n, ok := now.numbers[k.from]
	if !k.rate {
		return value{float64(n) * k.scale, ok}
	}
	old, had := before.numbers[k.from]
	if !ok || !had || n < old || elapsed <= 0 {
		return value{}
	}
	return value{float64(n-old) * k.scale / elapsed.Seconds(), true}
}

// compare puts a before b when it is less.
func (t *table) compare(a, b row) int {
	order := 0
	switch t.by {
	case 0:
	case 1:
		order = strings.Compare(a.state, b.state)
	default:
		x, y := a.values[t.by-2], b.values[t.by-2]
		if x.some != y.some {
			return map[bool]int{true: -1, false: 1}[x.some]
		}
		order = -cmp.Compare(x.n, y.n)
	}
	order = cmp.Or(order, strings.Compare(a.name, b.name))
	if t.up {
		return -order
	}
	return order
}

// titles are all that the table can be sorted by.
func titles() []string {
	all := []string{nameColumn, stateColumn}
	for _, k := range columns {
		all = append(all, k.title)
	}
	return all
}

// render makes the lines of a screen of that size: a summary, the titles, and as many containers as fit. Columns that do not
// fit are left out from the right, and names are cut before the last of them is. A height of 0 is as many lines as there are.
func (t *table) render(width, height int) []string {
	all := t.rows()
	fit := min(max(0, (width-nameMin-stateWidth-1)/numberWidth), len(columns))
	nameWidth := max(nameMin, width-stateWidth-1-fit*numberWidth)
	longest := len(nameColumn)
	for _, r := range all {
		longest = max(longest, len(r.name))
	}
	nameWidth = min(nameWidth, longest)
	line := func(name, state string, cell func(int) string) string {
		b := fmt.Sprintf("%-*s %-*s", nameWidth, name, stateWidth, state)
		for i := range fit {
			b += fmt.Sprintf("%*s", numberWidth, " "+cell(i))
		}
		return b[:min(len(b), width)]
	}
	lines := []string{t.summary(width), line(nameColumn[:min(len(nameColumn), nameWidth)], stateColumn, func(i int) string { return columns[i].title })}
	rows := len(all)
	if height > 0 {
		rows = max(0, height-len(lines))
	}
	t.skip = max(0, min(t.skip, len(all)-rows))
	for _, r := range all[t.skip:min(len(all), t.skip+rows)] {
		lines = append(lines, line(shorten(r.name, nameWidth), r.state, func(i int) string {
			if !r.values[i].some {
				return "-"
			}
			return columns[i].show(r.values[i].n)
		}))
	}
	return lines
}

// shorten cuts the front of a path: its end tells more.
func shorten(name string, width int) string {
	if len(name) <= width {
		return name
	}
	return "<" + name[len(name)-width+1:]
}

func (t *table) summary(width int) string {
	active := 0
	for _, c := range t.now.containers {
		if c.state != "created" && c.state != "exited" {
			active++
		}
	}
	order := map[bool]string{false: "", true: ", reversed"}[t.up]
	text := fmt.Sprintf("%s: %d containers, %d active; by %s%s", t.dir, len(t.now.containers), active, titles()[t.by], order)
	return text[:min(len(text), width)]
}

// key does what a key asks for; page is how many rows a page has. It is false for the key that ends the program.
func (t *table) key(name string, page int) bool {
	n := len(titles())
	switch name {
	case "q", "Esc", "Ctrl-C":
		return false
	case "Right", ">":
		t.by = (t.by + 1) % n
	case "Left", "<":
		t.by = (t.by + n - 1) % n
	case "r":
		t.up = !t.up
	case "Down":
		t.skip++
	case "Up":
		t.skip--
	case "PgDn":
		t.skip += page
	case "PgUp":
		t.skip -= page
	case "Home":
		t.skip = 0
	case "End":
		t.skip = len(t.now.containers)
	}
	for i, key := range []string{"n", "s", "c", "m", "p"} {
		if name == key {
			t.by, t.up, t.skip = i, false, 0
		}
	}
	return true
}
