package engine

import (
	"fmt"
	"path"
	"slices"
	"strconv"
)

// Rootfs returns the root: [RootHost] or a path on the host, which is absolute in what an engine hands out. It is empty where there is
// an image instead.
func (c *Config) Rootfs() string { return c.Spec.Root.Path }

// SetRootfs sets it, in place of an image if there was one. Whether the path exists, and what a relative one is relative to, is for the engine to say; ./host is a directory.
func (c *Config) SetRootfs(root string) error {
	if root == "" {
		return Invalid("rootfs", root, "neither a path nor a known root", "write a directory's path, or host")
	}
	switch clean := path.Clean(root); {
	case root == RootHost:
	case clean == RootHost:
		root = "./" + clean
	default:
		root = clean
	}
	err := c.leaveImage()
	c.Spec.Root.Path = root
	return err
}

// RelativeRootfs reports whether the root is a path that an engine has yet to make absolute.
func (c *Config) RelativeRootfs() bool {
	return c.Image() == "" && c.Rootfs() != RootHost && !path.IsAbs(c.Rootfs())
}

// RootMode returns what happens to the container's writes.
func (c *Config) RootMode() RootMode {
	if c.Extension.RootMode == "" {
		return RootOverlay
	}
	return c.Extension.RootMode
}

// rootModes are the values that rootfs.mode takes.
var rootModes = []RootMode{RootOverlay, RootVolatile, RootReadOnly, RootDirect}

// SetRootMode sets it.
func (c *Config) SetRootMode(mode RootMode) error {
	if !slices.Contains(rootModes, mode) {
		return Invalid("rootfs.mode", string(mode), "not a root mode", "write overlay, volatile, ro or rw")
	}
	c.Extension.RootMode = mode
	c.Spec.Root.Readonly = mode == RootReadOnly
	return nil
}

// rootSizeMin is the least bound of a layer: a file system needs something for itself.
const rootSizeMin = 1 << 20

// RootSize returns how many bytes the writable layer may take, or [Max].
func (c *Config) RootSize() int64 {
	if c.Extension.RootSize == 0 {
		return Max
	}
	return c.Extension.RootSize
}

// SetRootSize sets it, rounded down to a page.
func (c *Config) SetRootSize(bytes int64) error {
	if bytes != Max && bytes < rootSizeMin {
		return Invalid("rootfs.size", fmt.Sprint(bytes), "a file system needs more than that", "write at least 1M, or max")
	}
	if c.Extension.RootSize = page(bytes); c.Extension.RootSize == Max {
		c.Extension.RootSize = 0
	}
	return nil
}

// rootSizeText is the size as its annotation has it.
func (c *Config) rootSizeText() string {
	if c.RootSize() == Max {
		return "max"
	}
	return strconv.FormatInt(c.RootSize(), 10)
}

// setOCIRootSize reads it from there.
func (c *Config) setOCIRootSize(text string) error {
	if text == "max" {
		return c.SetRootSize(Max)
	}
	bytes, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return Invalid("rootfs.size", text, "neither a number of bytes nor max", "")
	}
	return c.SetRootSize(bytes)
}
