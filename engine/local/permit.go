package local

import (
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// Who may do what is decided three times. The kernel asks the modes of the tree (default_permissions), so whoever comes here may write
// that file or that directory. What is written is held against the writer, here: [container.mayBecome]. And the whole of it against the
// container's owner, before each start, whoever wrote it and however it came: [container.mayStart].

// principal is somebody with the groups that count.
type principal struct {
	uid    uint32
	groups []uint32
}

// callerOf is who sent a request. Its process waits for the answer, so its groups are its own while they are read. They do not count when it is
// another user's than the request: who opened the file may have had a program with more rights write to it.
func callerOf(by engine.Caller) principal {
	p := principal{by.UID, []uint32{by.GID}}
	text, err := readProc(fmt.Sprintf("/proc/%d/status", by.PID))
	if by.PID == 0 || err != nil {
		return p
	}
	for line := range strings.Lines(text) {
		key, words, _ := strings.Cut(line, ":")
		ids := numbers(strings.Fields(words))
		switch {
		case key == "Uid" && slices.ContainsFunc(ids, func(id uint32) bool { return id != by.UID }):
			return p
		case key == "Groups":
			p.groups = append(p.groups, ids...)
		}
	}
	return p
}

// ownerOf is the owner of a container, with the groups that this machine's files of users say.
func ownerOf(o engine.Owner) principal {
	p := principal{o.UID, nil}
	u, err := user.LookupId(strconv.FormatUint(uint64(o.UID), 10))
	if err != nil {
		return p
	}
	if ids, err := u.GroupIds(); err == nil {
		p.groups = numbers(ids)
	}
	return p
}

func numbers(words []string) (out []uint32) {
	for _, w := range words {
		if n, err := strconv.ParseUint(w, 10, 32); err == nil {
			out = append(out, uint32(n))
		}
	}
	return out
}

// can reports whether permission bits let somebody do something: 4 read, 2 write, 1 search.
func (p principal) can(o engine.Owner, bits uint32) bool {
	switch {
	case p.uid == 0:
		return true
	case p.uid == o.UID:
		return o.Mode>>6&bits == bits
	case slices.Contains(p.groups, o.GID):
		return o.Mode>>3&bits == bits
	}
	return o.Mode&bits == bits
}

// mayBecome says whether somebody may make one configuration of the other.
func (c *container) mayBecome(by engine.Caller, old, next *engine.Config) error {
	if by.UID == 0 {
		return nil
	}
	if err := next.PermittedFrom(old); err != nil {
		return err
	}
	if !engine.SameLimits(old, next) {
		if err := c.mayLimit(by); err != nil {
			return err
		}
	}
	if use, was := next.Extension.Image, old.Extension.Image; use != nil && use != was && use.ID != "" && (was == nil || use.ID != was.ID) {
		if i := c.e.images.entry(use.Name); i == nil || i.stands() != use.ID {
			return &engine.Error{Op: "write", File: "image", Value: use.Name + " " + use.ID, Errno: syscall.EPERM, Why: "the name does not stand for that content",
				Cure: "write the name alone"}
		}
	}
	return c.mayUse(callerOf(by), old, next)
}

// stands is the content that the entry stands for, or empty.
func (i *entry) stands() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rec.ID
}

// mayLimit says whether somebody may set the limits of a container: like those of a part of the kernel's hierarchy that was delegated
// (cgroup-v2, "Delegation"), they belong to whom the directory around it belongs to.
func (c *container) mayLimit(by engine.Caller) error {
	c.e.mu.RLock()
	parent := c.parent
	c.e.mu.RUnlock()
	around := c.e.RootOwner()
	if parent != nil {
		around, _ = parent.Owner("")
	}
	if around.UID == by.UID {
		return nil
	}
	return &engine.Error{Op: "write", File: c.View().Path, Errno: syscall.EPERM, Why: "its limits are set by whom the directory around it belongs to",
		Cure: "make containers in it, whose limits are yours, or ask that user"}
}

// mayUse says whether somebody may use what a configuration names and the one before did not: images, networks, other containers.
func (c *container) mayUse(who principal, old, next *engine.Config) error {
	refuse := func(file, value, why, cure string) error {
		return &engine.Error{Op: "check", File: file, Value: value, Errno: syscall.EPERM, Why: why, Cure: cure}
	}
	if use := next.Extension.Image; use != nil && (old == nil || use != old.Extension.Image) {
		if i := c.e.images.entry(use.Name); i != nil {
			if o, _ := i.Owner(""); !who.can(o, 5) {
				return refuse("image", use.Name, "you may not read and search images/"+use.Name, "ask its owner for both: chmod, or chgrp, images/"+use.Name)
			}
		}
	}
	for _, a := range next.Networks() {
		if old != nil && slices.ContainsFunc(old.Networks(), func(o engine.Attachment) bool { return o.Network == a.Network }) {
			continue
		}
		if n := c.e.networks.find(a.Network); n != nil {
			if o, _ := n.Owner(""); !who.can(o, 2) {
				return refuse("net", a.Network, "you may not write to networks/"+a.Network+", which is what joining it takes", "ask its owner: chmod g+w, and chgrp, networks/"+a.Network)
			}
		}
	}
	for _, n := range engine.Namespaces {
		name := next.Namespace(n.Type).Container
		if name == "" || old != nil && old.Namespace(n.Type).Container == name {
			continue
		}
		if other, ok := c.other(name); ok {
			if o, _ := other.Owner(""); o.UID != who.uid {
				return refuse("namespaces", n.Name+" "+name, "that container is not yours", "join one of your own")
			}
		}
	}
	return nil
}

// mayStart holds a whole configuration against the container's owner. What root owns may be everything.
func (c *container) mayStart(config *engine.Config) error {
	o, _ := c.Owner("")
	if o.UID == 0 {
		return nil
	}
	if err := config.Permitted(); err != nil {
		return err
	}
	return c.mayUse(ownerOf(o), nil, config)
}

// strange reports whether the container belongs to somebody who is not root.
func (c *container) strange() bool {
	o, _ := c.Owner("")
	return o.UID != 0
}

// ownMax is how many containers somebody who is not root may have: each costs the server memory, and the machine a directory.
const ownMax = 1000

// mayCreate says whether somebody may have one container more.
func (e *Engine) mayCreate(by engine.Caller, name string) error {
	if by.UID == 0 {
		return nil
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	n := 0
	for _, c := range e.byID {
		if o, _ := c.Owner(""); o.UID == by.UID {
			n++
		}
	}
	if n < ownMax {
		return nil
	}
	return &engine.Error{Op: "mkdir", File: name, Errno: syscall.EDQUOT, Why: fmt.Sprintf("you have %d containers", n), Cure: "remove some, or ask root to make one and give it to you"}
}
