package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// windowMax bounds the memory that a compressed archive can have its reader take: more than `xz -9` needs, and zstd without --ultra.
const windowMax = 64 << 20

// compressions are told by how they begin.
var compressions = []struct {
	name   string
	magic  []byte
	native bool // package archive reads it by itself
	open   func(r io.Reader) (io.ReadCloser, error)
}{
	{"gzip", []byte{0x1f, 0x8b}, true, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, true, func(r io.Reader) (io.ReadCloser, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(windowMax), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}},
	{"xz", []byte("\xfd7zXZ\x00"), false, func(r io.Reader) (io.ReadCloser, error) {
		d, err := xz.NewReader(r, windowMax)
		return io.NopCloser(d), err
	}},
	{"bzip2", []byte("BZh"), false, func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
}

// compression returns the index of the compression that head, the beginning of a file, is of; -1 when it is of none.
func compression(head []byte) int {
	for i, c := range compressions {
		if bytes.HasPrefix(head, c.magic) {
			return i
		}
	}
	return -1
}

// decompress reads what a stream holds, which need not be compressed. Closing the result leaves r open.
func decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, _ := in.Peek(6)
	i := compression(head)
	if i < 0 {
		return io.NopCloser(in), nil
	}
	out, err := compressions[i].open(in)
	if err != nil {
		return nil, refused(syscall.EBADMSG, fmt.Sprintf("it is no whole %s file: %v", compressions[i].name, err), "")
	}
	return decompressor{out, compressions[i].name}, nil
}

// decompressor says of what its errors speak.
type decompressor struct {
	io.ReadCloser
	name string
}

func (d decompressor) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = bad(err, "it is no whole "+d.name+" file")
	}
	return n, err
}
