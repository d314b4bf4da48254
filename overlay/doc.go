// Package overlay makes the roots of containers: what a program finds at "/", on which layer its writes land, and what
// becomes of that layer afterwards.
//
// # Model
//
// A root is a set of detached mounts (fsmount(2), open_tree(2) with OPEN_TREE_CLONE), owned by descriptors and attached
// nowhere: [Store.Prepare] makes them, a launch moves them into a fresh mount namespace with move_mount(2), and
// [Root.Close] drops them. The host's mount table never shows one, and a crash leaves none behind.
//
//	overlay   lower = the root, upper = STATE/containers/I/ID/upper, kept until [Store.Remove]
//	volatile  lower = the root, upper = a tmpfs of its own, gone with the last process
//	ro        a read-only clone of the root
//	rw        a clone of the root
//
// The root is a directory, or a list of them, the layers of an image, of which the first one that has a file shows it
// ([Source]). An image has no mode rw, and its ro is an overlay without an upper directory.
//
// Every root is nodev: a device node in it opens nothing, the customary ones are bound into /dev one by one.
// Set-user-ID bits keep their meaning, which no_new_privs takes from them by default. Where the mount that a root is on
// is nosuid or noexec, the container's root is too, whichever the mode: nobody gains by ctrfs what the host's
// administrator took away. Every clone is private, so that no mount event travels between a container and the host.
//
// Modes ro and rw show the mounts below the root as the host has them. The overlay modes do not: overlayfs looks
// through them at the directories beneath.
//
// A layer may have a bound, Source.Size: on a disk it is a file system in a sparse file then (bound.go), mounted as such roots
// are; in memory, the size of its tmpfs.
//
// The root may also be a file that holds a file system (disk.go), told by its magic number. It is mounted by way of a loop device
// that goes with its last user (loop.go), or by the kernel alone (apart.go), to be written to only for mode rw. Containers of
// one file share the file system; one that writes and one whose root must not change cannot be together (EBUSY). A journal
// is not replayed unless the mode is rw: what was not unmounted is refused (EUCLEAN), since a root is not changed by being looked
// at, and is not shown half-written either.
//
// The layer belongs to the container, not to the root: it stays when rootfs is set to something else, with whatever was
// written, deleted or replaced in it.
//
// # Ids
//
// With [IDs], a root is shown with the ids of a user namespace, and files have on disk the ids that the container sees:
// its root's files are 0's, its user 1000's are 1000's. So a root needs no chown, is shared by containers with different
// ranges of ids, and a layer outlives its range. The layers of an overlay are idmapped clones (mount_setattr(2)), that
// which is written to included, and the overlay itself is made with the file system ids of the container's root: the
// host's root has no id there. A volatile layer has the host's ids instead, since nobody else sees it.
//
// An id that the namespace does not map, 65536 and beyond, is nobody's: its files can be looked at as others may, and
// neither changed nor copied up.
//
// Modes ro and rw idmap what is mounted below the root too. The kernel's own file systems (proc, sysfs, …) cannot be, and
// are left out, as is ctrfs's own mount: a container has its own, and those of the host show it the host. Any other that
// cannot be is an error which names it. To show it as it is would let the container write files that belong to its range
// of ids, which is another's tomorrow; to leave it out would let it write to the directory beneath.
//
// With mode rw, a set-user-ID file that the container's root makes is on disk one of the host's root, as it is without a
// user namespace. Such a root should lie in a directory that only root may enter, as layers do. Where the root's mount is
// nosuid, the clone is.
//
// # Sources of mounts
//
// [Store.Bind] makes such clones of other paths of the host, for mounts of the container's. A source that leads through a
// link of procfs, into the directory of a process there, or to ctrfs's own mount is refused. A clone keeps the flags of
// its source, and is private unless something else is asked for, also where the host's mounts are shared. [OpenInRoot]
// reads a file of a root that may be hostile.
//
// # The root called host
//
// "host" needs no image: this machine's /usr, read-only, with /bin, /sbin and /lib* as the host has them, over a
// skeleton directory that holds everything else (see host.go for what is in it and why). The skeleton is built from
// files that every user of the host may read, once, and again when one of them has changed.
//
// # On disk
//
//	STATE/containers/I/ID/{upper,work}   writable layers, made at the first Prepare that needs one
//	STATE/containers/I/ID/disk           the file system that these two are in, if the layer has a bound
//	STATE/host/BOOT-SIGNATURE            skeletons, of this boot only
//	STATE/trash/                         what is being deleted
//	STATE/mnt/                           an empty directory, mounted upon in private namespaces only
//
// Each is 0700, so that no user of the host reaches the set-user-ID files of a layer. A container's directory, in which the
// engine keeps its own files too, is removed by a rename into the trash, which a goroutine empties; [Open] takes up what a
// crash left there. [Store.MakeHome] makes it, and says why there is an I, the first character of the id.
//
// # Failure and locks
//
// Every refusal is an [*engine.Error]. What touches a user's path is given three seconds, then it is ETIMEDOUT: the
// path may lie on a file server that is gone, which no signal ends. All methods may be called concurrently. The locks
// (trash.mu, host.mu) are leaves: no code under one takes another.
//
//	store, err := overlay.Open("/var/lib/ctrfs")
//	root, err := store.Prepare("7", overlay.Directory("/srv/debian"), engine.RootOverlay, ids)
//	defer root.Close()
//	for _, m := range root.Mounts { … move_mount(m.File → m.Target) … }
package overlay
