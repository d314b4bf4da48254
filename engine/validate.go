package engine

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Validate checks what no single setting can: that a start could honour the configuration as a whole. It runs when a
// configuration is written and again before every start, whoever wrote it.
func (c *Config) Validate() error {
	if err := validIDs(&c.Spec.Process.User); err != nil {
		return err
	}
	for _, m := range c.Spec.Mounts {
		if why, cure := mountFault(m); why != "" {
			return &Error{Op: "check", File: "mounts", Errno: syscall.EOPNOTSUPP, Why: fmt.Sprintf("on %s: %s", m.Destination, why), Cure: cure}
		}
	}
	if c.Image() != "" && c.RootMode() == RootDirect {
		return clash("rootfs.mode", string(RootDirect), "an image is never changed", "write overlay, volatile or ro into rootfs.mode first")
	}
	if err := c.validateNamespaces(); err != nil {
		return err
	}
	if err := c.validateFields(); err != nil {
		return err
	}
	if err := c.validateInput(); err != nil {
		return err
	}
	if err := c.validateListen(); err != nil {
		return err
	}
	return c.validateDevices()
}

// validateFields checks the fields that no file shows against the namespaces that they need.
func (c *Config) validateFields() error {
	has := func(t specs.LinuxNamespaceType) bool {
		return slices.ContainsFunc(c.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
	}
	if c.Spec.Domainname != "" && !has(specs.UTSNamespace) {
		return clash("domainname", c.Spec.Domainname, "without a uts namespace it would become the host's", "write 'uts new' into namespaces, or leave it out")
	}
	if len(c.Spec.Linux.TimeOffsets) > 0 && !c.Namespace(specs.TimeNamespace).New() {
		return clash("linux.timeOffsets", "", "clocks are set in a new time namespace only", "write 'time new' into namespaces, or leave it out")
	}
	return nil
}

// validIDs refuses the number that means "do not change" to setresuid(2) and setresgid(2): a program that was to be that user
// would stay root.
func validIDs(u *specs.User) error {
	for _, id := range append([]uint32{u.UID, u.GID}, u.AdditionalGids...) {
		if id == 1<<32-1 {
			return Invalid("process.user", fmt.Sprint(id), "it is no user and no group to the kernel", "use a number below 4294967295")
		}
	}
	return nil
}
