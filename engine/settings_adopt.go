package engine

// adoptIsolation runs the isolation of a specification through the setters, so that a rule stands in one place. What a file
// shows less of than the specification holds is checked only, and kept as it is: the five sets of capabilities, and what
// [Config.Validate] sees to.
func (c *Config) adoptIsolation() error {
	for _, set := range []func() error{
		func() error { return c.SetUIDMap(c.UIDMap()) },
		func() error { return c.SetGIDMap(c.GIDMap()) },
		func() error { return c.SetMasked(c.Masked()) },
		func() error { return c.SetReadonly(c.Readonly()) },
		func() error { return c.SetAppArmor(c.AppArmor()) },
		func() error { return c.SetSELinux(c.SELinux()) },
		func() error { return c.SetOOMScoreAdj(c.OOMScoreAdj()) },
		func() error { return c.SetUser(c.User()) },
		c.adoptDevices, c.adoptSysctls, c.adoptRlimits, c.checkCaps,
	} {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

// adoptDevices supplies the customary devices when the specification speaks of none, which is what it asks for then.
func (c *Config) adoptDevices() error {
	if len(c.Spec.Linux.Devices)+len(c.Spec.Linux.Resources.Devices) > 0 {
		return nil
	}
	return c.SetDevices(defaultDevices)
}

// adoptSysctls puts the keys into the one form that is kept.
func (c *Config) adoptSysctls() error {
	given := c.Sysctls()
	c.Spec.Linux.Sysctl = nil
	for _, pair := range given {
		if err := c.SetSysctl(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

// adoptRlimits orders the limits. One that stands twice has no meaning in the specification.
func (c *Config) adoptRlimits() error {
	given := c.Rlimits()
	c.Spec.Process.Rlimits = nil
	for i, r := range given {
		if i > 0 && given[i-1].Name == r.Name {
			return Invalid("rlimits", r.Name, "it stands twice", "leave one out")
		}
		if err := c.SetRlimit(r.Name, r.Soft+" "+r.Hard); err != nil {
			return err
		}
	}
	return nil
}

// checkCaps checks the names of all sets.
func (c *Config) checkCaps() error {
	caps := c.Spec.Process.Capabilities
	if caps == nil {
		return nil
	}
	for _, set := range [][]string{caps.Bounding, caps.Effective, caps.Permitted, caps.Inheritable, caps.Ambient} {
		for _, name := range set {
			if !isCap(name) {
				return Invalid("caps", name, "no such capability", "see capabilities(7) for the names")
			}
		}
	}
	return nil
}
