// Package fs is the tree that users see: a FUSE file system in which every directory is a container and every file is one
// of its settings, states, actions or resources.
//
// # Model
//
// A file is a row of a table (row.go and the rows_*.go files): its name, shape, help, how it is read and how it is
// written. The nodes, their permission bits, the help file, docs/abi.md and the completeness test come from the row;
// adding a file is adding a row. The generic code parses a value by its shape (shape.go), asks the engine to apply it,
// and turns a refusal into an errno and a sentence in the container's error file.
//
//	dir ──rows──► file ──open──► handle ──► row.read / set / list / act ──► engine.Program
//
// Two kinds of row are directories themselves: links.go, symbolic links that the engine makes up, and shelf.go, things that mkdir
// makes: further programs of a container, and images. What a container's files and those of its programs have in common knows them as
// an [engine.Program]; what all files have in common knows whom they are about as a subject.
//
// The package knows containers through [engine.Engine] only, and imports nothing but the standard library, go-fuse and
// engine, so that the same tree can stand in front of another engine; a test says so.
//
// # Reading and writing
//
// Text is made when a handle is read at offset 0 and kept for that handle, so a small buffer never sees two moments.
// Every file has a true st_size: tar, rsync and busybox read nothing from a file of size 0. One FUSE WRITE is one
// operation, applied or refused before it returns; truncation, flush and close mean nothing, because shells truncate
// before they write and ignore what close says.
//
// # Caching
//
// Names and directories change through the kernel only, so the kernel may keep them; the attributes of a file hold its
// size and are asked for every time. Pages are never kept: files are opened with FOPEN_DIRECT_IO. What sendfile(2),
// splice(2) and mmap(2) read still passes through pages, as far as the size goes, which the kernel drops at each open.
//
// # Locks
//
// Outermost first; the engine's own locks (see its package comment) are inside of all of them.
//
//	handle.mu   text of one open file; not held while a stream blocks or an action runs
//	feed.mu     text of one open stream; not held while a read blocks
//	samples.mu  the last look at all containers; held for memory operations only
//	memos.mu    the texts whose sizes were told lately; held for memory operations only
//	heir.mu     who waits on an old connection, see [Heirs]; held for memory operations only
//	ledger.mu   the open wait files; held for memory operations, and a line into a file in memory
//
// # Deadlocks
//
// The server never touches its own mount, and no handler sends a notification: the kernel holds locks of the directory
// during LOOKUP, MKDIR and RMDIR, and a notification waits for them (go-fuse's package comment lists the cases).
//
// # Failure
//
// Who is blocked in wait when an upgrade ends the server is answered by the next one, see [Heirs]; all else that is open ends with it.
//
// An error becomes an errno by [engine.Errno] and nowhere else. An error that carries none is EIO, and is logged.
package fs
