package engine

import (
	"slices"
	"strings"
	"syscall"
)

// ImageDefaults is what an image says about the program in it: OCI image specification, config.md. Where a container says nothing
// itself, this holds.
type ImageDefaults struct {
	Cmd        []string `json:"cmd,omitempty"` // Entrypoint, then Cmd
	Env        []string `json:"env,omitempty"`
	Cwd        string   `json:"cwd,omitempty"`
	User       string   `json:"user,omitempty"`
	StopSignal string   `json:"stop.signal,omitempty"`
}

// ImageUse is the image of a container. The content is pinned: what later takes the name in images/ does not change a container.
type ImageUse struct {
	Name     string        `json:"name"`
	ID       string        `json:"id,omitempty"` // of the content; empty until an engine has looked the name up
	Defaults ImageDefaults `json:"defaults"`
}

// Image returns the name of the container's image, empty when it has none.
func (c *Config) Image() string {
	if c.Extension.Image == nil {
		return ""
	}
	return c.Extension.Image.Name
}

// SetImage gives the container an image, in place of what it has as its root, or with an empty name takes it away. What the name
// stands for is for an engine to say, with [Config.UseImage].
func (c *Config) SetImage(name string) error {
	if name == "" {
		if c.Extension.Image == nil {
			return nil
		}
		return c.SetRootfs(RootHost)
	}
	if ValidateName(name) != nil {
		return Invalid("image", name, "not a name of an image", "write the name of a directory in images/; mkdir images/NAME makes one, and pull or tar fills it")
	}
	if err := c.leaveImage(); err != nil {
		return err
	}
	c.Spec.Root.Path = ""
	c.Extension.Image = &ImageUse{Name: name}
	return nil
}

// setOCIImage reads the annotation: the name, and the content if that was known.
func (c *Config) setOCIImage(text string) error {
	if text == "" {
		return nil
	}
	name, id, _ := strings.Cut(text, " ")
	if root := c.Rootfs(); root != "" && root != RootHost {
		return Invalid("image", text, "root.path says "+root, "write an empty one, or leave the annotation out")
	}
	if err := c.SetImage(name); err != nil {
		return err
	}
	c.Extension.Image.ID = id
	return nil
}

func (c *Config) ociImage() string {
	if c.Extension.Image == nil {
		return ""
	}
	return strings.TrimSpace(c.Image() + " " + c.Extension.Image.ID)
}

// UseImage pins what the image's name stands for. What the image says takes the place of what nobody has set; of the environment,
// what somebody has set is kept beside it.
func (c *Config) UseImage(use ImageUse) error {
	base := NewConfig()
	d := &use.Defaults
	c.Extension.Image = &use
	if len(c.Spec.Process.Args) == 0 {
		c.Spec.Process.Args = slices.Clone(d.Cmd)
	}
	err := c.SetEnv(slices.Concat(base.Env(), d.Env, except(c.Env(), base.Env())))
	if err == nil && d.Cwd != "" && c.Cwd() == base.Cwd() {
		err = c.SetCwd("/" + strings.TrimLeft(d.Cwd, "/"))
	}
	if err == nil && d.User != "" && c.User() == base.User() {
		err = c.SetUser(d.User)
	}
	if err == nil && d.StopSignal != "" && c.StopSignal() == base.StopSignal() {
		err = c.SetStopSignal(d.StopSignal)
	}
	if err != nil {
		return &Error{Op: "write", File: "image", Value: use.Name, Errno: syscall.EINVAL, Err: err,
			Cure: "the image's own configuration says that, see images/" + use.Name + "/config; use another image"}
	}
	return nil
}

// leaveImage takes back what [Config.UseImage] has done, where it still stands.
func (c *Config) leaveImage() error {
	use := c.Extension.Image
	if use == nil {
		return nil
	}
	base, with := NewConfig(), c.Fresh()
	c.Extension.Image = nil
	if slices.Equal(c.Spec.Process.Args, with.Spec.Process.Args) {
		c.Spec.Process.Args = nil
	}
	if c.Cwd() == with.Cwd() {
		c.Spec.Process.Cwd = base.Cwd()
	}
	if c.StopSignal() == with.StopSignal() {
		c.Extension.StopSignal = base.StopSignal()
	}
	if c.User() == with.User() {
		if err := c.SetUser(base.User()); err != nil {
			return err
		}
	}
	return c.SetEnv(slices.Concat(base.Env(), except(c.Env(), with.Env())))
}

// Fresh is what the settings of a container are when they are reset: those of a new one, with what its image says.
func (c *Config) Fresh() *Config {
	out := NewConfig()
	if use := c.Extension.Image; use != nil {
		if err := out.UseImage(*use); err != nil {
			return NewConfig() // never: it has been taken before
		}
		out.Extension.Image = nil
	}
	return out
}

// except returns the items that are not among others.
func except(items, others []string) []string {
	return slices.DeleteFunc(slices.Clone(items), func(s string) bool { return slices.Contains(others, s) })
}
