package engine

// StdinOpen is the content of the stdin.open file: 1 when the program reads what is written to stdin, 0 when it reads nothing.
func (c *Config) StdinOpen() string {
	if c.Extension.StdinOpen {
		return "1"
	}
	return "0"
}

// SetStdinOpen is its inverse. Errors: EINVAL.
func (c *Config) SetStdinOpen(text string) error {
	if text != "0" && text != "1" {
		return Invalid("stdin.open", text, "neither 0 nor 1", "write 1 to give the program a standard input, 0 to end it")
	}
	c.Extension.StdinOpen = text == "1"
	return nil
}

// validateInput refuses two standard inputs.
func (c *Config) validateInput() error {
	if c.Extension.StdinOpen && c.Spec.Process.Terminal {
		return clash("stdin.open", "1", "a program on a terminal reads the terminal", "write 0 into tty, or leave stdin.open at 0")
	}
	return nil
}
