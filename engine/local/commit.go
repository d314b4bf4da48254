package local

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/overlay/archive"
	"github.com/ctrfs/ctrfs/overlay/image"
)

// A commit reads the container's files as they lie, and makes an image of them as if they had come as an archive. Nothing may write
// there meanwhile: what runs is frozen, and what does not run is not started, because the action token is held. Whether a commit has
// frozen the container is in its record, so that one which a server's death ends leaves nobody frozen.

// Commit implements [engine.Container].
func (c *container) Commit(by engine.Caller, name string) error {
	if err := rootOnly(by, "write", "commit"); err != nil {
		return err
	}
	if engine.ValidateName(name) != nil {
		return engine.Invalid("commit", name, "not a name of an image", "use 1 to 63 of A-Z a-z 0-9 _ . -, starting with a letter or a digit")
	}
	end, err := c.begin("commit")
	if err != nil {
		return err
	}
	v := c.View()
	parts, err := c.parts(v.Config)
	if err != nil {
		end()
		return err
	}
	i, j, err := c.e.images.beginCommit(by, name, v)
	if err != nil {
		closeFiles(parts)
		end()
		return err
	}
	i.do(j, func(ctx context.Context, p *image.Progress) (*image.Held, error) {
		defer end()
		defer closeFiles(parts)
		thaw, err := c.hush()
		if err != nil {
			return nil, err
		}
		held, err := c.e.images.assemble(ctx, v, parts, p)
		return held, errors.Join(err, thaw())
	})
	return nil
}

// beginCommit makes an image busy, and the image if there is none of that name.
func (s *images) beginCommit(by engine.Caller, name string, v *engine.View) (*entry, *job, error) {
	i := s.entry(name)
	if i == nil {
		if _, err := s.e.CreateImage(by, name, engine.Owner{UID: by.UID, GID: by.GID, Mode: 0o755}); err != nil && engine.Errno(err) != syscall.EEXIST {
			return nil, nil, err
		}
		if i = s.entry(name); i == nil {
			return nil, nil, syscall.ENOENT // somebody was faster, and removed it
		}
	}
	j, err := i.begin(image.Unpacking, "container "+v.Path)
	return i, j, err
}

// parts opens what a commit packs, the lowest first: below an image's layers there is nothing to pack.
func (c *container) parts(config *engine.Config) (parts []*os.File, err error) {
	refuse := func(file, value, why, cure string) error {
		return &engine.Error{Op: "commit", File: file, Value: value, Errno: syscall.EOPNOTSUPP, Why: why, Cure: cure}
	}
	switch {
	case !config.OwnMounts():
		return nil, refuse("namespaces", "", "it has no root of its own", "commit the container that has")
	case config.RootMode() == engine.RootVolatile:
		return nil, refuse("rootfs.mode", string(engine.RootVolatile), "what is written is in memory, and goes with the exit", "run it with rootfs.mode overlay")
	case config.Rootfs() == engine.RootHost:
		return nil, refuse("rootfs", engine.RootHost, "its files are this machine's own", "give it an image, or a directory as its rootfs")
	}
	if config.Image() == "" {
		from, err := c.e.source(config)
		if err != nil {
			return nil, err
		}
		how := config.RootMode()
		if how == engine.RootOverlay {
			how = engine.RootReadOnly // without the layer, which comes below
		}
		lower, err := c.e.roots.Look(c.id, from, how)
		if err != nil {
			return nil, err
		}
		parts = append(parts, lower)
	}
	if config.RootMode() == engine.RootOverlay {
		upper, err := c.e.roots.OpenLayer(c.id)
		if err != nil {
			closeFiles(parts)
			return nil, err
		}
		if upper != nil {
			parts = append(parts, upper)
		}
	}
	return parts, nil
}

// hush freezes a container that runs; thaw takes that back. The action token is held.
func (c *container) hush() (thaw func() error, err error) {
	if s := c.View().State; !s.Alive() || s == engine.Paused {
		return func() error { return nil }, nil
	}
	if err := c.amend(func(r *record) { r.Committing = true }); err != nil {
		return nil, err
	}
	thaw = func() error {
		err := c.freeze("0")
		if !c.View().State.Alive() {
			err = nil // it has been killed
		}
		return errors.Join(err, c.amend(func(r *record) { r.Committing = false }))
	}
	if err := c.freeze("1"); err != nil {
		return nil, errors.Join(err, thaw())
	}
	return thaw, nil
}

// thawCommitted ends what a commit has frozen that an earlier server did not live to thaw.
func (e *Engine) thawCommitted() {
	for _, c := range e.byID {
		if !c.rec.Committing {
			continue
		}
		err := c.amend(func(r *record) { r.Committing = false })
		if c.View().State.Alive() {
			err = errors.Join(c.freeze("0"), err)
		}
		if err != nil {
			e.log.Error("a commit was interrupted, and has left the container frozen", "container", c.id, "err", err)
		}
	}
}

// assemble makes the image: a layer of each part, upon the container's own image where it has one.
func (s *images) assemble(ctx context.Context, v *engine.View, parts []*os.File, p *image.Progress) (held *image.Held, err error) {
	if use := v.Config.Extension.Image; use != nil {
		if held, err = s.store.Hold(use.ID); err != nil {
			return nil, err
		}
	}
	for n, part := range parts {
		var base *image.Image
		if held != nil {
			base = held.Image
		}
		last := n == len(parts)-1
		next, err := s.store.Commit(ctx, base, func(w io.Writer) error { return archive.Pack(ctx, part, w) },
			func(out *ocispec.Image) {
				if last {
					describe(out, v.Config)
				}
			}, ocispec.History{CreatedBy: "ctrfs commit " + v.Path}, p)
		if held != nil {
			held.Release()
		}
		if err != nil {
			return nil, err
		}
		held = next
	}
	if held == nil {
		return nil, &engine.Error{Op: "commit", File: v.Path, Errno: syscall.ENOENT, Why: "it has no files", Cure: "give it a root, and start it"}
	}
	return held, nil
}

// describe has an image say of its program what the container's configuration says.
func describe(out *ocispec.Image, config *engine.Config) {
	c := &out.Config
	c.Entrypoint, c.Cmd = nil, config.Spec.Process.Args
	c.Env, c.WorkingDir, c.User, c.StopSignal = config.Env(), config.Cwd(), config.User(), "SIG"+config.StopSignal()
}
