package fs

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"unicode"

	"github.com/ctrfs/ctrfs/engine"
)

// aligned renders lines of tab-separated cells as columns. Nothing that a container chooses may hold a tab or a newline.
func aligned(fill func(io.Writer)) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fill(w)
	w.Flush() // a Builder takes everything
	return b.String()
}

// psHeader names the columns of ps. Numbers are raw, so that awk can add them up: bytes, and seconds of cpu.
const psHeader = "PID\tINNER\tUSER\tSTATE\tRSS\tCPU\tCOMMAND\n"

func psLine(w io.Writer, p engine.Process) {
	fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%d\t%.2f\t%s\n", p.PID, p.Inner, p.User, p.State, p.RSS, p.CPU.Seconds(), oneLine(p.Command))
}

// oneLine keeps a command line, which a container's program chooses, from forging lines and columns of a table.
func oneLine(command string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, command)
}

// psOne lists what runs in a container and below it; a header alone when nothing does.
func psOne(c engine.Container, by *sight) (string, error) {
	procs, err := c.Processes()
	return aligned(func(w io.Writer) {
		io.WriteString(w, psHeader)
		for _, p := range procs {
			if by.seesPath(p.Container) {
				psLine(w, p)
			}
		}
	}), err
}

// psAll asks the outermost containers only: each lists what runs below it, too. One that was removed meanwhile runs
// nothing.
func psAll(t *tree, by *sight) (string, error) {
	var failed error
	found := t.engine.Children(nil)
	all := make([][]engine.Process, len(found))
	errs := make([]error, len(found))
	t.forEach(len(found), func(i int) { all[i], errs[i] = found[i].Processes() })
	text := aligned(func(w io.Writer) {
		io.WriteString(w, "CONTAINER\t"+psHeader)
		for i, procs := range all {
			if errs[i] != nil && engine.Errno(errs[i]) != syscall.ENOENT {
				failed = errs[i]
			}
			for _, p := range procs {
				if by.seesPath(p.Container) {
					io.WriteString(w, p.Container+"\t")
					psLine(w, p)
				}
			}
		}
	})
	return text, failed
}

// statsOne renders one sample, a line a number: the form of the kernel's own cpu.stat.
func statsOne(c engine.Container) (string, error) {
	var b strings.Builder
	for _, s := range c.Stats() {
		fmt.Fprintf(&b, "%s %d\n", s.Name, s.Value)
	}
	return b.String(), nil
}

// statsColumns are the columns of the root's stats after the container's name and state, by the names of its stats.
var statsColumns = []struct{ title, stat string }{
	{"CPU_USEC", "cpu.usage_usec"},
	{"MEMORY", "memory.current"},
	{"MEMORY_PEAK", "memory.peak"},
	{"PIDS", "pids.current"},
	{"IO_READ", "io.rbytes"},
	{"IO_WRITE", "io.wbytes"},
	{"NET_RX", "net.rx_bytes"},
	{"NET_TX", "net.tx_bytes"},
}

// statsAll has the same columns for every container and on every host: a dash where there is no such number.
func statsAll(t *tree, by *sight) string {
	return aligned(func(w io.Writer) {
		io.WriteString(w, "CONTAINER\tSTATE")
		for _, column := range statsColumns {
			io.WriteString(w, "\t"+column.title)
		}
		io.WriteString(w, "\n")
		for _, s := range by.samples(t.samples.take(t, "stats")) {
			statsLine(w, s)
		}
	})
}

func statsLine(w io.Writer, s sample) {
	line := make([]byte, 0, 128)
	line = append(append(append(line, s.view.Path...), '\t'), s.view.State...)
	for _, column := range statsColumns {
		line = append(line, '\t')
		if n, ok := s.number(column.stat); ok {
			line = strconv.AppendUint(line, n, 10)
		} else {
			line = append(line, '-')
		}
	}
	w.Write(append(line, '\n'))
}

// helpHead is what a person needs to know before the list.
const helpHead = `Every directory is a container: mkdir makes one, rmdir removes it, mv renames it, mkdir -p a/b nests.
  mkdir web; echo 'sh -c "echo hi; exit 7"' > web/cmd; echo 1 > web/start; cat web/wait web/log
> replaces a value, >> adds to a list, an empty line resets. When a write fails, the container's error file says why.
`

// helpText is made from the tables, so it cannot leave a file out.
func helpText(t *tree) string {
	return helpHead + aligned(func(w io.Writer) {
		for _, s := range []*scope{t.root, t.container, t.exec, t.image, t.network} {
			for _, f := range s.families {
				fmt.Fprintf(w, "\n%s\n", f.title)
				for i := range f.rows {
					r := &f.rows[i]
					fmt.Fprintf(w, "  %s\t%04o\t%s\t%s\n", r.name, r.mode(), r.shapeText(), r.helpLine())
				}
			}
		}
	})
}

// helpLine is the help, and the default where there is one.
func (r *row) helpLine() string {
	if d := r.byDefault(); d != "" {
		return r.help + " (default: " + d + ")"
	}
	return r.help
}

// shapeText is the shape, and whether a setting takes effect on a running container.
func (r *row) shapeText() string {
	if r.live {
		return string(r.shape) + ", live"
	}
	return string(r.shape)
}
