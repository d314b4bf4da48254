package fs

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ctrfs/ctrfs/engine"
)

// imageShelf is the directory of images.
var imageShelf = shelving{
	one:   "an image",
	scope: func(t *tree) *scope { return t.image },
	all: func(t *tree, _ place) (all []place) {
		for _, i := range t.engine.Images() {
			all = append(all, imagePlace(i))
		}
		return all
	},
	find: func(t *tree, _ place, name string) (place, bool) {
		i, ok := t.engine.Image(name)
		if !ok {
			return place{}, false
		}
		return imagePlace(i), true
	},
	make: func(t *tree, by engine.Caller, _ place, name string, o engine.Owner) (place, error) {
		i, err := t.engine.CreateImage(by, name, o)
		if err != nil {
			return place{}, err
		}
		return imagePlace(i), nil
	},
	remove: func(t *tree, by engine.Caller, it place) error { return t.engine.RemoveImage(by, it.image) },
}

func imagePlace(i engine.Image) place { return place{image: i, id: i.View().Serial} }

// imageRows are the files of an image.
var imageRows = []row{
	{name: "pull", shape: order,
		act: toImage(func(i engine.Image, by engine.Caller, value string) error {
			return i.Pull(by, strings.TrimSpace(value))
		}),
		help: "write a reference, such as debian:12 or 127.0.0.1:5000/web@sha256:…: fetches it in the background; see progress, wait and error"},
	{name: "auth", shape: order, act: toImage(engine.Image.SetAuth),
		help: "write USER PASSWORD, or a token, before pull: who the registry is told that asks, instead of what ~/.docker/config.json of root says; an empty line forgets it"},
	{name: "tar", shape: archived, log: archive,
		take: func(by engine.Caller, s source) (io.WriteCloser, error) { return s.image.Receive(by) },
		help: "write an OCI layout, what docker save writes, or a root's files, as tar, compressed or not: is read in when the file is closed; reads as an OCI archive that docker load takes too"},
	{name: "state", shape: single, read: ofImage(func(v *engine.ImageView) string { return string(v.State) }),
		help: "empty, pulling, unpacking, ready or failed"},
	{name: "wait", shape: stream, wait: settled,
		help: "blocks until the image is neither pulling nor unpacking, then reads as state"},
	{name: "progress", shape: keyed, read: func(s source) (string, error) { return s.image.Progress(), nil },
		help: "what is under way: bytes, total, layers, layers.done, rate in bytes a second; empty when nothing is"},
	{name: "error", shape: single, read: ofImage(func(v *engine.ImageView) string { return v.Failure }),
		help: "why the last operation failed, and the cure; emptied by the next one that succeeds"},
	{name: "reference", shape: single, read: ofImage(func(v *engine.ImageView) string { return v.Reference }),
		help: "what it was pulled as"},
	{name: "id", shape: single, read: ofContent(func(c *engine.ImageContent) string { return c.ID }),
		help: "the digest of its configuration, by which docker and podman call it, too"},
	{name: "digest", shape: single, read: ofContent(func(c *engine.ImageContent) string { return c.Digest }),
		help: "the digest of the manifest that it was pulled by"},
	{name: "layers", shape: list, read: ofContent(layersText),
		help: "the digest of each layer, unpacked, the lowest first; layers are stored once, whichever images have them"},
	{name: "size", shape: single, read: ofContent(func(c *engine.ImageContent) string { return fmt.Sprint(c.Size()) }),
		help: "bytes of all layers, unpacked"},
	{name: "config", shape: single, read: ofContent(func(c *engine.ImageContent) string { return string(c.Config) }),
		help: "its configuration as it came, JSON of the OCI image specification"},
	{name: "created", shape: single, read: ofContent(func(c *engine.ImageContent) string { return timeText(c.Created) }),
		help: "when it was made, as its configuration says"},
	{name: "notes", shape: list, read: ofContent(func(c *engine.ImageContent) string { return strings.Join(c.Notes, "\n") }),
		help: "what of its archives was left out, such as device nodes, and why"},
	{name: "used_by", shape: list, mine: true, read: func(s source) (string, error) {
		return strings.Join(slices.DeleteFunc(s.image.UsedBy(), func(path string) bool { return !s.sight.seesPath(path) }), "\n"), nil
	},
		help: "the containers whose image it is; as long as there is one, it cannot be removed"},
}

// archive is an image as a tar.
var archive = &stored{
	open: func(s source) (engine.Log, error) { return s.image.Send() },
	size: func(s source) int64 {
		if c := s.image.View().Content; c != nil {
			return c.Archive
		}
		return 0
	},
}

// settled reads as the state does once that lasts.
var settled = &waiting{
	until: func(ctx context.Context, s source) (string, error) {
		state, err := s.image.Wait(ctx)
		return string(state), err
	},
	now: func(s source) (string, bool) {
		state := s.image.View().State
		return string(state), !state.Busy()
	},
}

func ofImage(get func(*engine.ImageView) string) reader {
	return func(s source) (string, error) { return get(s.image.View()), nil }
}

// ofContent reads what an image without content has no line for.
func ofContent(get func(*engine.ImageContent) string) reader {
	return ofImage(func(v *engine.ImageView) string {
		if v.Content == nil {
			return ""
		}
		return get(v.Content)
	})
}

func toImage(act func(engine.Image, engine.Caller, string) error) func(engine.Caller, source, string) error {
	return func(by engine.Caller, s source, value string) error { return act(s.image, by, value) }
}

func layersText(c *engine.ImageContent) string {
	var b strings.Builder
	for _, l := range c.Layers {
		b.WriteString(l.DiffID + "\n")
	}
	return b.String()
}
