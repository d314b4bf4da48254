package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// windowMax is how far back in a zstd stream a decoder has to remember: what zstd(1) takes without being asked.
const windowMax = 128 << 20

// decompress finds out how a stream is compressed, by its first bytes.
func decompress(stream io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(stream, 256<<10)
	magic, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	starts := func(with string) bool { return bytes.HasPrefix(magic, []byte(with)) }
	switch {
	case len(magic) == 0:
		return nil, bad("it is empty")
	case starts("\x1f\x8b"):
		return gzip.NewReader(in)
	case starts("\x28\xb5\x2f\xfd"), len(magic) >= 4 && magic[0]&0xf0 == 0x50 && starts(string(magic[:1])+"\x2a\x4d\x18"):
		return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowMax))
	case starts("BZh"):
		return nil, unknown("bzip2")
	case starts("\xfd7zXZ\x00"):
		return nil, unknown("xz")
	}
	return in, nil
}

func unknown(how string) error {
	return fmt.Errorf("it is compressed with %s, and a layer is with gzip, zstd or nothing: %w", how, syscall.EOPNOTSUPP)
}

const (
	chunkSize = 256 << 10
	chunks    = 12 // that decompression may be ahead
)

// chunk is a piece of the stream, which goes to whoever hashes and to whoever unpacks.
type chunk struct {
	data []byte
	err  error // why it is the last one
	left atomic.Int32
}

// stream decompresses ahead, and hashes beside it: a core each, where there are several.
type stream struct {
	free   chan *chunk
	parse  chan *chunk
	stop   chan struct{}
	digest chan hash.Hash // the result, once

	now  *chunk // being read
	rest []byte // of it
}

// newStream begins. close ends it.
func newStream(from io.Reader) *stream {
	s := &stream{free: make(chan *chunk, chunks), parse: make(chan *chunk, chunks), stop: make(chan struct{}), digest: make(chan hash.Hash, 1)}
	for range chunks {
		s.free <- &chunk{data: make([]byte, chunkSize)}
	}
	toHash := make(chan *chunk, chunks)
	go s.fill(from, toHash)
	go func() {
		sum := sha256.New()
		for c := range toHash {
			sum.Write(c.data)
			s.release(c)
		}
		s.digest <- sum
	}()
	return s
}

// fill reads until the end, an error, or until nobody wants any more.
func (s *stream) fill(from io.Reader, toHash chan<- *chunk) {
	defer close(toHash)
	defer close(s.parse)
	in, err := decompress(from)
	for {
		var c *chunk
		select {
		case c = <-s.free:
		case <-s.stop:
			return
		}
		n := 0
		c.data = c.data[:cap(c.data)]
		for n < len(c.data) && err == nil {
			var m int
			m, err = in.Read(c.data[n:])
			n += m
		}
		c.data, c.err = c.data[:n], err
		c.left.Store(2)
		toHash <- c // the channels hold all chunks that there are
		s.parse <- c
		if err != nil {
			return
		}
	}
}

func (s *stream) release(c *chunk) {
	if c.left.Add(-1) == 0 {
		s.free <- c
	}
}

// Read is for one reader.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.now != nil {
			if s.now.err != nil {
				return 0, s.now.err
			}
			s.release(s.now)
		}
		c, ok := <-s.parse
		if !ok {
			return 0, io.ErrUnexpectedEOF // only after close
		}
		s.now, s.rest = c, c.data
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// sum is the digest of the whole stream, which has been read.
func (s *stream) sum() string { return fmt.Sprintf("sha256:%x", (<-s.digest).Sum(nil)) }

func (s *stream) close() { close(s.stop) }
