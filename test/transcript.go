package test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Transcript is a parsed session: see the package comment for its format.
type Transcript struct {
	Name    string   // for failures: the file's name
	Shell   []string // argument vector
	Needs   []string // programs
	Timeout time.Duration
	World   bool // mounted in a [World]
	steps   []step
}

// step is one command and what it must lead to.
type step struct {
	line    int // of the command, from 1
	command string
	want    []string
	exit    int
}

const noNewline = `\ no newline`

// Parse reads a transcript. Errors name file and line.
func Parse(name, text string) (*Transcript, error) {
	tr := &Transcript{Name: name, Shell: []string{"dash"}, Timeout: 10 * time.Second}
	output := false // whether an uncommented line here belongs to a command
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		n := len(tr.steps)
		command, isCommand := strings.CutPrefix(line, "$ ")
		more, isMore := strings.CutPrefix(line, "> ")
		exit, isExit := strings.CutPrefix(line, "exit: ")
		var err error
		switch {
		case isCommand:
			tr.steps = append(tr.steps, step{line: i + 1, command: command})
			output = true
		case line == "#" || strings.HasPrefix(line, "# "):
			output = false
		case n == 0:
			err = tr.header(line)
		case !output && line != "":
			err = fmt.Errorf("output without a command: %q", line)
		case isMore && len(tr.steps[n-1].want) == 0:
			tr.steps[n-1].command += "\n" + more
		case isExit:
			tr.steps[n-1].exit, err = strconv.Atoi(exit)
		case output:
			_, err = lineMatcher(line)
			tr.steps[n-1].want = append(tr.steps[n-1].want, line)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
	}
	for i := range tr.steps {
		tr.steps[i].want = trimEmpty(tr.steps[i].want)
	}
	return tr, nil
}

func (tr *Transcript) header(line string) error {
	key, value, _ := strings.Cut(line, ": ")
	var err error
	switch key {
	case "shell":
		tr.Shell = strings.Fields(value)
	case "needs":
		tr.Needs = strings.Fields(value)
	case "timeout":
		tr.Timeout, err = time.ParseDuration(value)
	case "world":
		tr.World = true
	case "":
	default:
		err = fmt.Errorf("neither a header nor a command: %q", line)
	}
	return err
}

func trimEmpty(lines []string) []string {
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// lineMatcher returns what tells whether a line of output is the wanted one.
func lineMatcher(want string) (func(string) bool, error) {
	if want != "~" && !strings.HasPrefix(want, "~ ") {
		return func(got string) bool { return got == want }, nil
	}
	re, err := regexp.Compile("^(?:" + strings.TrimPrefix(want[1:], " ") + ")$")
	if err != nil {
		return nil, err
	}
	return re.MatchString, nil
}

// matches reports whether got is what want describes.
func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "..." {
		return matches(want[1:], got) || len(got) > 0 && matches(want, got[1:])
	}
	if len(got) == 0 {
		return false
	}
	match, err := lineMatcher(want[0])
	return err == nil && match(got[0]) && matches(want[1:], got[1:])
}

// splitOutput turns what a command printed into the lines of a transcript.
func splitOutput(out string) []string {
	if out == "" {
		return nil
	}
	lines := strings.Split(out, "\n")
	if lines[len(lines)-1] == "" {
		return lines[:len(lines)-1]
	}
	return append(lines, noNewline)
}

// Run types the transcript into sh and reports each command that went otherwise than written, by file and line. It ends
// early when the shell does.
func (tr *Transcript) Run(sh *Shell, report func(failure string)) {
	for _, st := range tr.steps {
		at := fmt.Sprintf("%s:%d: $ %s", tr.Name, st.line, st.command)
		out, status, err := sh.Run(st.command, Patiently(tr.Timeout))
		got := splitOutput(out)
		if err != nil {
			report(fmt.Sprintf("%s\n%v; it had printed\n%s", at, err, indent(got)))
			return
		}
		if !matches(st.want, got) {
			report(fmt.Sprintf("%s\nwanted\n%sgot\n%s", at, indent(st.want), indent(got)))
		}
		if status != st.exit {
			report(fmt.Sprintf("%s\nwanted exit status %d, got %d, printing\n%s", at, st.exit, status, indent(got)))
		}
	}
}

// shown bounds how much of a wrong output a failure repeats.
const shown = 60

func indent(lines []string) string {
	var b strings.Builder
	for i, line := range lines {
		if i == shown {
			fmt.Fprintf(&b, "\t… %d lines more\n", len(lines)-i)
			break
		}
		fmt.Fprintf(&b, "\t%s\n", line)
	}
	return b.String()
}
