package local

import (
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// process reads one process in the host's procfs: three files, each once. A package that parses all that they hold made a
// listing of many containers twice as long.
func process(pid int) (engine.Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := readProc(dir + "/stat")
	if err != nil {
		return engine.Process{}, err
	}
	status, err := readProc(dir + "/status")
	if err != nil {
		return engine.Process{}, err
	}
	p := engine.Process{PID: pid}
	name, ok := parseStat(&p, stat)
	if !ok {
		return p, &engine.Error{Op: "read", File: dir + "/stat", Value: stat, Errno: syscall.EIO, Why: "not what proc_pid_stat(5) describes"}
	}
	parseStatus(&p, status)
	args, err := readProc(dir + "/cmdline")
	if err == nil && args == "" && p.State != "Z" { // execve(2) has happened, and is just copying its arguments
		time.Sleep(execTail)
		args, err = readProc(dir + "/cmdline")
	}
	if p.Command = strings.Join(strings.Split(strings.TrimRight(args, "\x00"), "\x00"), " "); err != nil || p.Command == "" {
		p.Command = "[" + name + "]"
	}
	p.Command = printable(p.Command)
	return p, nil
}

// Fields of proc_pid_stat(5), counted from the one behind the name, which may hold spaces and parentheses itself.
const (
	statState = 0
	statUTime = 11
	statSTime = 12
	statRSS   = 21
	statEnd   = 22
)

// tick is the unit of times in procfs: USER_HZ, which is 100 on every architecture that ctrfs is built for.
const tick = time.Second / 100

// pageSize is the unit of memory there.
var pageSize = uint64(unix.Getpagesize())

// parseStat takes state, times and memory from the text of a stat file, and returns the name.
func parseStat(p *engine.Process, text string) (name string, ok bool) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return "", false
	}
	words := strings.Fields(text[end+1:])
	if len(words) < statEnd {
		return "", false
	}
	numbers := map[int]uint64{statUTime: 0, statSTime: 0, statRSS: 0}
	for i := range numbers {
		n, err := strconv.ParseInt(words[i], 10, 64)
		if err != nil || n < 0 {
			return "", false
		}
		numbers[i] = uint64(n)
	}
	p.State, p.RSS = words[statState], numbers[statRSS]*pageSize
	p.CPU = time.Duration(numbers[statUTime]+numbers[statSTime]) * tick
	return text[open+1 : end], true
}

// parseStatus takes the user, by the effective id, and the innermost pid from the text of a status file.
func parseStatus(p *engine.Process, text string) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		words := strings.Fields(value)
		switch {
		case key == "Uid" && len(words) > 1:
			p.User = words[1]
		case key == "NSpid" && len(words) > 0:
			p.Inner, _ = strconv.Atoi(words[len(words)-1])
		}
	}
}

// execTail is how long after a launch has ended a program may still have no arguments.
const execTail = 2 * time.Millisecond

// commandMax bounds the command line that a listing shows.
const commandMax = 200

// printable keeps a program from writing its own lines into a listing.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	if len(s) > commandMax {
		s = strings.ToValidUTF8(s[:commandMax], "") + "…"
	}
	return s
}
