package engine

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TerminalSize is the size of a terminal in characters.
type TerminalSize struct{ Columns, Rows uint16 }

// defaultSize is what a terminal has whose size nobody has chosen. The kernel's own default is 0x0, with which programs that
// draw on the screen do nothing useful.
var defaultSize = TerminalSize{80, 24}

// sizeMax is the kernel's bound: struct winsize of tty_ioctl(2).
const sizeMax = 1<<16 - 1

// Terminal says whether the program gets a terminal, and of what size.
func (c *Config) Terminal() (size TerminalSize, wanted bool) {
	if !c.Spec.Process.Terminal {
		return TerminalSize{}, false
	}
	size = defaultSize
	if box := c.Spec.Process.ConsoleSize; box != nil {
		if box.Width > 0 {
			size.Columns = uint16(min(box.Width, sizeMax))
		}
		if box.Height > 0 {
			size.Rows = uint16(min(box.Height, sizeMax))
		}
	}
	return size, true
}

// TTY is the content of the tty file.
func (c *Config) TTY() string {
	size, wanted := c.Terminal()
	switch {
	case !wanted:
		return "0"
	case c.Spec.Process.ConsoleSize == nil:
		return "1"
	}
	return fmt.Sprintf("%dx%d", size.Columns, size.Rows)
}

var sizeText = regexp.MustCompile(`^([1-9][0-9]*)x([1-9][0-9]*)$`)

// SetTTY gives the program a terminal or not: 0, 1, or COLSxROWS.
func (c *Config) SetTTY(text string) error {
	p := c.Spec.Process
	switch text {
	case "0", "1":
		p.Terminal, p.ConsoleSize = text == "1", nil
		return nil
	}
	numbers := sizeText.FindStringSubmatch(text)
	if numbers == nil {
		return Invalid("tty", text, "neither 0, 1 nor a size", "write COLSxROWS, such as 80x24")
	}
	columns, err := strconv.ParseUint(numbers[1], 10, 16)
	if err != nil {
		return Invalid("tty", text, "too many columns", "write at most 65535")
	}
	rows, err := strconv.ParseUint(numbers[2], 10, 16)
	if err != nil {
		return Invalid("tty", text, "too many rows", "write at most 65535")
	}
	p.Terminal, p.ConsoleSize = true, &specs.Box{Width: uint(columns), Height: uint(rows)}
	return nil
}

// checkConsoleSize takes 0 for a number that is left out, as the kernel does.
func checkConsoleSize(c *Config) error {
	if box := c.Spec.Process.ConsoleSize; box != nil && (box.Width > sizeMax || box.Height > sizeMax) {
		return ociBad(fmt.Sprintf("%dx%d", box.Width, box.Height), "larger than any terminal", "write at most 65535 for each")
	}
	return nil
}
