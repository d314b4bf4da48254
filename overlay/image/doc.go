// Package image keeps the images that containers start from: it gets them from registries and archives, gives them away as
// archives, makes new ones of a container's changes, and deletes what nobody needs any more.
//
// # Model
//
// An [Image] is a configuration and a list of layers. It never changes, and its name is the SHA-256 of its configuration, which
// names the SHA-256 of each layer's tar (the diff id). So both are verified by what they are called, and are stored once however
// many images, registries or archives they come from.
//
// An [Entry] is a name that somebody has given, with the image that it stands for and how that was come by. Entries are kept
// here, and what they may be called, who may use them and when a pull begins is decided elsewhere.
//
// # On disk
//
//	STATE/images/layers/HEX/files/        a layer's content, which overlayfs takes as it is
//	STATE/images/layers/HEX/exact         what makes its tar of that again, byte for byte (package archive)
//	STATE/images/layers/HEX/tar           instead of that, for a layer that holds the same path twice
//	STATE/images/layers/HEX/record.json   its size and what could not be unpacked
//	STATE/images/objects/HEX              an image: its configuration as it came
//	STATE/images/entries/NAME.json        an entry
//	STATE/images/tmp/                     what is being made, or deleted
//
// Everything is made in tmp and published by one rename(2), after it has been verified: what is there is whole. A layer is
// published as soon as it is unpacked, so a pull that failed later goes on where it was; the next [Store.Collect] takes it.
// The manifest is not kept: the compressed layers that it names are not here.
//
// # Crashes
//
// The server may be killed between any two steps. [Open] deletes what lies in tmp, and says of an entry that was being pulled that
// it was interrupted. A layer is synced in the background after it is published, by one syncfs(2): until then its record names
// the boot that it was written in, and [Open] after another boot deletes it, since a power cut may have left a part. An
// entry whose image that was has failed and says so.
//
// # What deletes
//
// [Store.Collect] alone, when its caller says so. It spares what an entry names, what its caller knows to be used, and what is
// held: [Store.Pull] and its like return an image held, and hold its layers while they come.
//
// # Registries
//
// A registry is not trusted with more than its own repository: sizes are bounded, digests compared, and what is unpacked is
// unpacked by a confined program. Everything goes over TLS, except to this machine itself. A blob whose connection breaks is
// continued at the byte where that happened. Credentials go to the registry that they are for, never to where it leads. Programs that
// docker's file names as helpers are not run, since a server executes nothing.
//
// # Failure and locks
//
// What a user sees is an [*engine.Error]. All methods may be called concurrently, except that one name's entry is changed by one
// caller at a time. Store.mu is a leaf: no code under it waits, for the disk no longer than a rename takes.
//
//	store, err := image.Open(image.Options{Dir: "/var/lib/ctrfs/images", Spawn: confined})
//	held, err := store.Pull(ctx, "busybox:1", image.Auth{}, progress)
//	err = store.Save(image.Entry{Name: "busybox", State: image.Ready, ID: held.ID})
//	held.Release()
package image
