package engine

import "strconv"

// Bounds of log.max, in bytes. Less than a page cannot be given back.
const (
	defaultLogMax = 16 << 20
	minLogMax     = 4 << 10
)

// LogMax returns how many bytes of the log are kept, or [Max].
func (c *Config) LogMax() int64 {
	if c.Extension.LogMax == 0 {
		return defaultLogMax
	}
	return c.Extension.LogMax
}

// SetLogMax sets it.
func (c *Config) SetLogMax(bytes int64) error {
	if bytes != Max && bytes < minLogMax {
		return Invalid("log.max", strconv.FormatInt(bytes, 10), "out of range", "write 4096 or more, 16M, or max")
	}
	if c.Extension.LogMax = bytes; bytes == defaultLogMax {
		c.Extension.LogMax = 0
	}
	return nil
}

// logMaxText is the annotation.
func logMaxText(bytes int64) string {
	if bytes == Max {
		return "max"
	}
	return strconv.FormatInt(bytes, 10)
}

// setOCILogMax takes the annotation: bytes, or max.
func (c *Config) setOCILogMax(text string) error {
	if text == "max" {
		return c.SetLogMax(Max)
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return Invalid("log.max", text, "neither bytes nor max", "")
	}
	return c.SetLogMax(int64(n))
}
