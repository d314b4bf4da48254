// Package cgroup is one interface in the shape of cgroup v2 over the control groups that a host really has: v2, v1, or the
// hybrid of both.
//
// # Model
//
// [Detect] finds the mounted hierarchies. A [Tree] is one directory in each of them, and a [Group] one directory below it
// in each, nested as containers are. Every file is known by its v2 name and read and written in v2's format. One table
// (table.go) says for each where it lives: under its own name in the v2 hierarchy where that offers the controller, else in
// which files of v1, with the conversion. A hierarchy is used when a row of the table needs it, so adding a file, and with
// it a controller, is adding a row.
//
// One gate (file.go) makes every system call on a cgroup directory. No descriptor is kept per group: an openat(2) below
// the tree's own directory costs a microsecond more, and hundreds of containers times six hierarchies would eat the
// descriptors of a process that may have 20000.
//
// # The home hierarchy
//
// One hierarchy tells which processes are in a group: v2's where there is one, be it without any controller, since freezing
// and killing are core features of it; else v1's freezer. [Host] keeps it first.
//
// # The leaf
//
// Under v2 a group whose controllers are enabled for groups below it may hold no process itself (cgroups(7), "no internal
// processes"). Where the v2 hierarchy carries a controller that the table uses, the processes of every group therefore live
// in a leaf below it, "_self", which no container can be called. Limits, freezing and killing act on the group, and so on
// its leaf and the groups nested in it; only membership is the leaf's. A hybrid host's v2 hierarchy without such controllers
// knows no such rule, and gets no leaf. Controllers are enabled in a group when the first group is made below it.
//
// A leaf can be given to the container ([Group.Delegate]), which makes groups of its own below it, as service managers do. What
// is there is the container's own, and no group of ours; limits, freezing and killing reach it from above.
//
// # Failure
//
// Every error is an [engine.Error] with the kernel's errno, except ERANGE, which is EINVAL. What the host lacks is
// EOPNOTSUPP with the reason, the same that [Host.Features] gives. [Tree.Create], [Group.Apply] and moving a process are all
// or nothing. Waiting for the kernel (a freeze, a dying task) is bounded and ends in ETIMEDOUT or EBUSY.
//
// # Example
//
//	host, err := cgroup.Detect(nil)
//	tree, err := host.Tree("ctrfs-1a2b3c4d")
//	group, err := tree.Create("7f3a", spec.Linux.Resources)
//	join, err := group.Join() // clone3 with join.Into; the child writes "0" to each of join.Tasks
//	text, err := group.Read("memory.current")
//	err = group.Kill()
//	err = group.Remove()
//
// A Host is immutable. A Tree's and a Group's methods may be called concurrently; there should be one Group for a path,
// since it remembers which limits it has set.
package cgroup
