package image

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
)

// parallel is how many layers are unpacked at once. More make no disk faster, and each takes memory.
const parallel = 3

// assemble makes an image of a configuration and its layers, the lowest first, and returns it held. What is there already is
// not read.
func (s *Store) assemble(ctx context.Context, raw []byte, from []*stream, p *Progress) (*Held, error) {
	config, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	if err := forThisHost(config); err != nil {
		return nil, err
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(from) {
		return nil, bad(nil, fmt.Sprintf("its configuration speaks of %d layers and its manifest of %d", len(ids), len(from)))
	}
	names := []string{digest(raw)}
	for i, d := range ids {
		from[i].diffID = string(d)
		names = append(names, string(d))
	}
	release := s.hold(names...)
	if err := s.unpackAll(ctx, from, p); err != nil {
		release()
		return nil, err
	}
	img, err := s.keepImage(raw)
	if err != nil {
		release()
		return nil, err
	}
	p.step(stepDone)
	return &Held{Image: img, release: release}, nil
}

// keepImage writes an image whose layers are there, and held.
func (s *Store) keepImage(raw []byte) (*Image, error) {
	s.mu.Lock()
	img, err := s.image(raw)
	if err == nil && s.images[img.ID] != nil {
		img = s.images[img.ID]
		s.mu.Unlock()
		return img, nil
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := s.write(filepath.Join(s.dir, objectsDir, hexOf(img.ID)), raw); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[img.ID] = img
	return img, nil
}

// unpackAll sees to it that layers are there. The first error ends it.
func (s *Store) unpackAll(ctx context.Context, from []*stream, p *Progress) error {
	missing := s.missing(from, p)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *stream)
	var workers sync.WaitGroup
	for range min(parallel, len(missing)) {
		workers.Go(func() {
			for from := range next {
				if _, err := s.unpack(ctx, from); err != nil {
					cancel(err)
					return
				}
				p.change(func(r *Reading) {
					r.LayersDone++
					if !from.came { // somebody else had begun with it
						r.Total -= max(from.size, 0)
					}
				})
			}
		})
	}
	for _, m := range missing {
		select {
		case next <- m:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// missing returns the layers that are not there yet, each once, the largest first: otherwise all may wait at the end for the
// one that was begun last.
func (s *Store) missing(from []*stream, p *Progress) []*stream {
	var missing []*stream
	total, seen := int64(0), map[string]bool{}
	for _, f := range from {
		if seen[f.diffID] || s.has(f.diffID) {
			continue
		}
		seen[f.diffID] = true
		missing = append(missing, f)
		total += max(f.size, 0)
	}
	slices.SortStableFunc(missing, func(a, b *stream) int { return int(min(max(b.size-a.size, -1), 1)) })
	p.change(func(r *Reading) {
		r.What, r.Total, r.Layers, r.LayersDone = stepLoad, r.Bytes+total, len(from), len(from)-len(missing)
	})
	return missing
}
