// Package engine is the contract between the tree that users see and whatever runs their containers, together with the
// model that both share: a container's configuration, its state, its exit, its errors.
//
// # Model
//
// An [Engine] holds containers in a hierarchy; a [Container], as every [Program], is looked at through a [View], one consistent moment of it,
// and changed by [Container.Update] and the actions (Start, Stop, Kill, …). A container's [Config] is an OCI runtime
// specification plus an [Extension] for what the specification has no field for. Every setting is a view of one field, so
// there is one model and no translation between two.
//
// The package is pure: it makes no system call and imports data types only. It can therefore be tested anywhere, and
// another engine (one that spans machines) can stand behind the same tree.
//
// # Failure
//
// Every refusal is an [*Error]: what was tried, on what, with which value, why it failed, and the cure, with the errno
// that the system call shall return. A refused operation has changed nothing.
//
// # Lock order
//
// Outermost first. No lock is held while text is copied to the kernel, while a stream blocks, or while a container is
// being launched.
//
//	fs handle lock            text of one open file
//	  engine registry lock    names, parents, children
//	    container action lock one action (start, rename, remove, update) at a time
//	      container state lock  configuration, state, last error; held for memory operations only
package engine
