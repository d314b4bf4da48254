// Package archive turns a layer of an image, a tar, into a directory that overlayfs uses as a lower layer, and back.
//
// # Model
//
//	server                                 confined program ([Main])
//	stream ──► pipe ────────────────────►  decompress ─┬─► hash
//	                                                   └─► parse, make names ──► finish files
//	exact  ◄─────────────────────────────  what Rebuild needs
//	opaque marks, far owners  ◄──────────  report.go, a line each; then the result
//
// [Unpack] runs in the server, and so does nothing with the archive but to pass it on. The program is this one, launched by a
// [Spawn]: engine/local has the keeper do it, in namespaces of its own, with the layer as its root directory and nothing else in sight.
// The clone of the layer that it sees is idmapped, so that what it makes has on disk the ids that the archive says.
//
// What such a program has no right to, the server does on its word: the mark of an opaque directory (trusted.overlay.opaque), and owners
// beyond 65535, which no container maps. The word is not trusted: it is done in the layer, through no link, or not at all.
//
// # Semantics
//
// They are those of image-spec's layer.md. Whiteouts become character devices 0:0, and say nothing about the layer that they are in,
// whatever the order. A later entry takes the place of an earlier one; a directory that takes the place of anything else is opaque,
// for what was there hid what is below. Names with .. are refused. A symbolic link on the way to a name is followed as in a
// container that has the layer as its root, one at the end never. A hard link is to what the layer has. Device nodes, and extended
// attributes but user.*, security.capability and access lists, are left out with a note. Directories without an entry are root's, 0755.
//
// The program keeps a tree of the directories that it has made (tree.go), and gives the kernel single names in descriptors of those. So
// there is no path for a link to be on, and a name that is known costs no call: a small file is five calls, of which all but the
// first happen beside the reading of the archive.
//
// # Bounds
//
// A path has 4095 bytes, an archive 16 million entries and a million directories, the program 512 MB, of which it uses some 25.
// [UnpackAtMost] bounds the rest; without it, the disk does.
//
// # Failure
//
// An error is an [*engine.Error] that names the entry, with the errno of what failed, or EBADMSG when it was the archive. A stream that
// is cut off is an error, also where tar(1) takes it for whole: an archive has an end. What was unpacked until then stays in the directory,
// which is the caller's to throw away, as it is to sync it before it is published.
//
//	result, err := archive.Unpack(ctx, spawn, dir, exact, blob)
//	…
//	err = archive.Rebuild(dir, exact, w)
package archive
