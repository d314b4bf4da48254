package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine/crash"
)

// The files of a layer.
const (
	filesDir   = "files"       // its content, in overlayfs's form
	exactFile  = "exact"       // what package archive needs to make its tar again
	tarFile    = "tar"         // its tar, where that is not possible
	recordFile = "record.json" // a layerRecord
)

const syncPause = 500 * time.Millisecond // half of what a power cut may take back

const digestPrefix = "sha256:"

// isDigest reports whether text is "sha256:" and 64 hexadecimal digits, and so safe in a path.
func isDigest(text string) bool {
	hex, ok := strings.CutPrefix(text, digestPrefix)
	return ok && len(hex) == 2*sha256.Size && strings.Trim(hex, "0123456789abcdef") == ""
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, digestPrefix) }
func digestOf(hex string) string { return digestPrefix + hex }

// digest returns the digest of a text.
func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return digestOf(hex.EncodeToString(sum[:]))
}

// write replaces a file of the store atomically. The caller is the only writer of that file.
func (s *Store) write(name string, text []byte) error {
	next, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "file-")
	if err != nil {
		return keepError(name, err)
	}
	_, err = next.Write(text)
	if e := next.Close(); err == nil {
		err = e
	}
	crash.Point("write a file of the images")
	if err == nil {
		err = os.Rename(next.Name(), name)
		crash.Point("replace a file of the images")
	}
	if err != nil {
		os.Remove(next.Name())
		crash.Point("drop a file of the images")
		return keepError(name, err)
	}
	s.touch(name)
	return nil
}

// touch has a file and its directory synced soon.
func (s *Store) touch(name string) {
	s.mu.Lock()
	s.dirty[name] = true
	s.dirty[filepath.Dir(name)] = true
	s.mu.Unlock()
	s.nudge()
}

func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// syncLoop writes to the disk what has changed, at most twice a second.
func (s *Store) syncLoop() {
	for {
		select {
		case <-s.wake:
		case <-s.quit:
			s.sync()
			return
		}
		s.sync()
		select {
		case <-time.After(syncPause):
		case <-s.quit:
		}
	}
}

func (s *Store) sync() {
	s.mu.Lock()
	dirty, fresh := s.dirty, s.fresh
	s.dirty, s.fresh = map[string]bool{}, map[string]bool{}
	s.mu.Unlock()
	for name := range dirty {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue // removed meanwhile
		}
		if err := unix.Fsync(fd); err != nil {
			s.log.Error("not synced to disk; a power cut may take it back", "file", name, "err", err)
		}
		crash.Point("sync a file of the images")
		unix.Close(fd)
	}
	if len(fresh) > 0 {
		s.settle(fresh)
	}
}

// settle has layers reach the disk and then notes in their records that they have. A layer is thousands of files: they are
// synced together, and after it may be used.
func (s *Store) settle(fresh map[string]bool) {
	dir, err := os.Open(filepath.Join(s.dir, layersDir))
	if err == nil {
		err = unix.Syncfs(int(dir.Fd()))
		dir.Close()
	}
	if err != nil {
		s.log.Error("not synced to disk; a power cut may take layers back", "err", err)
		return
	}
	crash.Point("sync the layers")
	for diffID := range fresh {
		s.mu.Lock()
		l := s.layers[diffID]
		s.mu.Unlock()
		if l == nil {
			continue
		}
		r := l.record()
		text, err := json.Marshal(r)
		if err == nil {
			err = s.write(filepath.Join(s.layerDir(diffID), recordFile), text)
		}
		if err != nil && s.has(diffID) {
			s.log.Error("a layer's record cannot be written", "layer", diffID, "err", err)
		}
	}
}

// record is what is kept of a layer that has reached the disk.
func (l *Layer) record() *layerRecord {
	return &layerRecord{DiffID: l.DiffID, Size: l.Size, Disk: l.Disk, Files: l.Files, Opaque: l.Opaque, Exact: l.exact, Notes: l.Notes}
}

// has reports whether a layer is there.
func (s *Store) has(diffID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layers[diffID] != nil
}
