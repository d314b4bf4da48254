package engine

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// invalidID is (uid_t)-1, which system calls take for "leave it alone": no user or group has it.
const invalidID = math.MaxUint32

// parseID reads a user or group id as it is written by programs: decimal, no sign, no leading zeros. Anything looser has
// wrapped around to 0, or been taken for a name, in one engine or another.
func parseID(text string) (uint32, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" || len(text) > 1 && text[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil && n != invalidID
}

// mapMax is how many lines the kernel takes: UID_GID_MAP_MAX_EXTENTS, include/linux/user_namespace.h.
const mapMax = 340

// UIDMap returns the lines of uid_map, "inside outside count"; none means that the engine finds a free range.
func (c *Config) UIDMap() []string { return formatMap(c.Spec.Linux.UIDMappings) }

// GIDMap returns the lines of gid_map, likewise.
func (c *Config) GIDMap() []string { return formatMap(c.Spec.Linux.GIDMappings) }

// SetUIDMap sets which user ids of this machine the container's are, in the format of user_namespaces(7).
func (c *Config) SetUIDMap(lines []string) (err error) {
	m, err := parseMap("uid_map", lines)
	if err == nil {
		c.Spec.Linux.UIDMappings = m
	}
	return err
}

// SetGIDMap does the same for groups.
func (c *Config) SetGIDMap(lines []string) (err error) {
	m, err := parseMap("gid_map", lines)
	if err == nil {
		c.Spec.Linux.GIDMappings = m
	}
	return err
}

func formatMap(m []specs.LinuxIDMapping) (lines []string) {
	for _, x := range m {
		lines = append(lines, fmt.Sprintf("%d %d %d", x.ContainerID, x.HostID, x.Size))
	}
	return lines
}

// parseMap reads a map by the kernel's own rules (kernel/user_namespace.c, map_write), so that a start does not fail by
// them, and asks for a root: without one nothing could set the container up.
func parseMap(file string, lines []string) ([]specs.LinuxIDMapping, error) {
	const cure = "write lines INSIDE OUTSIDE COUNT, such as 0 100000 65536"
	if len(lines) > mapMax {
		return nil, Invalid(file, lines[mapMax], fmt.Sprintf("more than %d lines", mapMax), "write fewer and longer ranges")
	}
	var m []specs.LinuxIDMapping
	root := false
	for _, line := range lines {
		x, ok := parseExtent(line)
		if !ok {
			return nil, Invalid(file, line, "not three numbers of 32 bits", cure)
		}
		if x.Size == 0 || !fits(x.ContainerID, x.Size) || !fits(x.HostID, x.Size) {
			return nil, Invalid(file, line, "the range is empty or goes beyond 4294967294", cure)
		}
		for _, y := range m {
			if overlap(x.ContainerID, y.ContainerID, x.Size, y.Size) || overlap(x.HostID, y.HostID, x.Size, y.Size) {
				return nil, Invalid(file, line, "it overlaps with another line", "map each id once, inside and outside")
			}
		}
		root = root || x.ContainerID == 0
		m = append(m, x)
	}
	if len(m) > 0 && !root {
		return nil, Invalid(file, lines[0], "id 0 inside is not mapped", "begin one line with 0")
	}
	return m, nil
}

func parseExtent(line string) (x specs.LinuxIDMapping, ok bool) {
	words := strings.Fields(line)
	if len(words) != 3 {
		return x, false
	}
	for i, field := range []*uint32{&x.ContainerID, &x.HostID, &x.Size} {
		n, err := strconv.ParseUint(words[i], 10, 32) // takes no sign, and the kernel takes leading zeros
		if err != nil {
			return x, false
		}
		*field = uint32(n)
	}
	return x, true
}

// fits reports whether the last id of a range is one.
func fits(first, size uint32) bool { return uint64(first)+uint64(size)-1 < invalidID }

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// UserText is a parsed value of the user file. Names are for the container's own /etc/passwd and /etc/group to explain,
// at start; what is a number is never looked for as a name.
type UserText struct {
	Name  string // the user's name; empty when UID counts
	UID   uint32
	Group string // the group's name; empty when GID counts, or none was written
	GID   uint32
	// HasGroup says that a group was written. Without one it is the user's own, by /etc/passwd.
	HasGroup bool
}

// Numeric reports whether nothing needs to be looked up.
func (u UserText) Numeric() bool { return u.Name == "" && u.Group == "" && u.HasGroup }

// ParseUser reads name, uid, uid:gid, name:group and any mixture.
func ParseUser(text string) (u UserText, err error) {
	const cure = "write a name, a uid, or either with :group; ids are decimal numbers below 4294967295"
	user, group, has := strings.Cut(text, ":")
	u.HasGroup = has
	if u.Name, u.UID, err = parsePrincipal(user); err != nil {
		return UserText{}, Invalid("user", text, err.Error(), cure)
	}
	if !has {
		return u, nil
	}
	if u.Group, u.GID, err = parsePrincipal(group); err != nil {
		return UserText{}, Invalid("user", text, "group: "+err.Error(), cure)
	}
	return u, nil
}

// nameMax bounds a user's name: LOGIN_NAME_MAX.
const nameMax = 256

// parsePrincipal reads a name or a number. What looks like a number must be one: nothing that begins with a digit or a
// sign is a name, or "0x0" and "-1" would be names that a root file system could define.
func parsePrincipal(text string) (name string, id uint32, err error) {
	if text == "" {
		return "", 0, fmt.Errorf("there is no name and no number")
	}
	if strings.IndexByte("0123456789+-", text[0]) >= 0 {
		id, ok := parseID(text)
		if !ok {
			return "", 0, fmt.Errorf("not an exact id")
		}
		return "", id, nil
	}
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r == ':' || r == '/' || r == ',' }
	if len(text) > nameMax || strings.IndexFunc(text, bad) >= 0 {
		return "", 0, fmt.Errorf("not a name")
	}
	return text, 0, nil
}

// User returns the value of the user file.
func (c *Config) User() string {
	if c.Extension.User != "" {
		return c.Extension.User
	}
	u := c.Spec.Process.User
	return fmt.Sprintf("%d:%d", u.UID, u.GID)
}

// SetUser sets it. A uid with a gid is complete and goes into the specification; anything else is kept as text in the
// extension, for the start to look up, with its numbers in the specification already. Further groups of the specification
// belong to the user that they came with.
func (c *Config) SetUser(text string) error {
	u, err := ParseUser(text)
	if err != nil {
		return err
	}
	if text == c.User() {
		return nil
	}
	c.Spec.Process.User = specs.User{UID: u.UID, GID: u.GID, Umask: c.Spec.Process.User.Umask}
	c.Extension.User = ""
	if !u.Numeric() {
		c.Extension.User = text
	}
	return nil
}
