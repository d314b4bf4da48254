package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"

	"github.com/ctrfs/ctrfs/engine"
)

// triesMax bounds how often a blob is continued, however well it goes in between.
const triesMax = 50

// blob reads a blob of a registry. Where the connection breaks it goes on with another one: what was read stays read, and
// whoever computes a digest of it need not know.
type blob struct {
	ctx    context.Context
	r      *registry
	digest string
	size   int64
	p      *Progress

	at     int64
	body   io.ReadCloser // nil between two connections
	failed int           // tries since the last byte
	all    int           // tries
	err    error         // the end
}

// open returns a reader of a blob that has size bytes. It checks that, and not the digest.
func (r *registry) open(ctx context.Context, digest string, size int64, p *Progress) io.ReadCloser {
	return &blob{ctx: ctx, r: r, digest: digest, size: size, p: p}
}

func (b *blob) Read(to []byte) (int, error) {
	for b.err == nil {
		if b.body == nil {
			if err := b.connect(); err != nil {
				b.broken(err)
				continue
			}
		}
		n, err := b.read(to)
		if n > 0 {
			b.failed = 0
			b.p.add(n)
			return n, nil
		}
		if err != nil {
			b.broken(err)
		}
	}
	return 0, b.err
}

// read reads from the connection that there is, and no more than there should be.
func (b *blob) read(to []byte) (int, error) {
	if b.at == b.size {
		if n, _ := b.body.Read(make([]byte, 1)); n > 0 {
			return 0, b.lies(fmt.Sprintf("more than %d bytes", b.size))
		}
		return 0, io.EOF
	}
	n, err := b.body.Read(to[:min(int64(len(to)), b.size-b.at)])
	b.at += int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
		if n > 0 {
			err = nil // said again next time
		}
	}
	return n, err
}

func (b *blob) lies(what string) error {
	return bad(errLength, what)
}

// connect asks for what is still to come.
func (b *blob) connect() error {
	header := http.Header{}
	if b.at > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
	}
	b.all++
	resp, err := b.r.get(b.ctx, "/blobs/"+b.digest, header, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return err
	}
	left := b.size - b.at
	if resp.StatusCode == http.StatusPartialContent {
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != b.at {
			resp.Body.Close()
			return bad(nil, "the registry sends another part than was asked for")
		}
	} else {
		left = b.size
	}
	if resp.ContentLength >= 0 && resp.ContentLength != left {
		resp.Body.Close()
		return b.lies(fmt.Sprintf("%d bytes instead of %d", resp.ContentLength, left))
	}
	if left == b.size && b.at > 0 { // it does not do ranges, so what is there already comes once more
		if _, err := io.CopyN(io.Discard, resp.Body, b.at); err != nil {
			resp.Body.Close()
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	b.body = resp.Body
	return nil
}

// broken takes leave of a connection, and of the blob where another one would not help.
func (b *blob) broken(err error) {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
	if err == io.EOF {
		b.err = err
		return
	}
	b.failed++
	again := b.ctx.Err() == nil && b.failed < tries && b.all < triesMax
	switch engine.Errno(err) {
	case syscall.EBADMSG, syscall.ENOENT, syscall.EACCES, syscall.EPROTO, syscall.EHOSTUNREACH, syscall.EAGAIN, syscall.EREMOTEIO:
		again = false
	case syscall.ETIMEDOUT:
		again = again && b.failed < 2 // each costs the patience of whoever waits
	}
	if !again {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			err = bad(errLength, fmt.Sprintf("it breaks off after %d bytes of %d", b.at, b.size))
		}
		b.err = err
		return
	}
	b.r.s.log.Warn("a download broke and is continued", "blob", b.digest, "at", b.at, "err", err)
	if err := sleep(b.ctx, b.r.s.pause(b.failed)); err != nil {
		b.err = err
	}
}

func (b *blob) Close() error {
	if b.err == nil {
		b.err = errClosed
	}
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}

var errClosed = errors.New("it was closed")
