package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/engine"
)

// What Rebuild needs is the archive without what is in its files, compressed with zstd: exactMagic, and then records until one of
// length 0.
//
//	length<<1     bytes of the archive                     (varint, the bytes)
//	length<<1|1   what is in a file: length, checksum, path  (varint, 4 bytes, varint, the path)
//
// tar-split (github.com/vbatts/tar-split) keeps the same in lines of JSON. It holds every name in memory, to find doubles, and a
// line of any length: too much for who has to read what a hostile archive may have had written.

const exactMagic = "ctrfs-exact-1\n"

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// records writes what Rebuild needs. The first error sticks.
type records struct {
	out  *zstd.Encoder
	buf  *bufio.Writer
	raw  []byte // of the archive, not yet written
	head []byte // scratch
}

func newRecords(w io.Writer) (*records, error) {
	out, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	r := &records{out: out, buf: bufio.NewWriterSize(out, 64<<10), raw: make([]byte, 0, 16<<10)}
	r.buf.WriteString(exactMagic)
	return r, nil
}

// add takes bytes of the archive.
func (r *records) add(p []byte) {
	for len(p) > 0 {
		n := min(len(p), cap(r.raw)-len(r.raw))
		r.raw, p = append(r.raw, p[:n]...), p[n:]
		if len(r.raw) == cap(r.raw) {
			r.flush()
		}
	}
}

func (r *records) flush() {
	if len(r.raw) > 0 {
		r.buf.Write(binary.AppendUvarint(r.head[:0], uint64(len(r.raw))<<1))
		r.buf.Write(r.raw)
		r.raw = r.raw[:0]
	}
}

// file says that here is what is in a file.
func (r *records) file(path string, size int64, sum uint32) {
	r.flush()
	r.head = binary.AppendUvarint(r.head[:0], uint64(size)<<1|1)
	r.head = binary.LittleEndian.AppendUint32(r.head, sum)
	r.head = binary.AppendUvarint(r.head, uint64(len(path)))
	r.buf.Write(r.head)
	r.buf.WriteString(path)
}

func (r *records) close() error {
	r.flush()
	r.buf.Write([]byte{0})
	if err := r.buf.Flush(); err != nil {
		return err
	}
	return r.out.Close()
}

// recorder is what the archive is read through. What is in files is not recorded.
type recorder struct {
	from    io.Reader
	to      *records
	payload bool  // what is read is in a file
	size    int64 // of all
	limit   int64 // 0 for none
	empty   bool  // this block is, so far
	zeros   bool  // the last block was, and in no file
}

var errLimit = fmt.Errorf("the layer is larger than it may be: %w", syscall.EFBIG)

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.watch(p[:n])
	r.size += int64(n)
	if r.limit > 0 && r.size > r.limit {
		return 0, errLimit
	}
	if !r.payload && n > 0 {
		r.to.add(p[:n])
	}
	return n, err
}

// watch looks for empty blocks, with which an archive ends.
func (r *recorder) watch(p []byte) {
	const block = 512
	for at := r.size; len(p) > 0; {
		if at%block == 0 {
			r.empty = true
		}
		part := p[:min(int64(len(p)), block-at%block)]
		r.empty = r.empty && !r.payload && isZero(part)
		p, at = p[len(part):], at+int64(len(part))
		if at%block == 0 {
			r.zeros = r.empty
		}
		if r.payload && len(p) >= block { // a file, of which the last block counts
			skip := int64(len(p)) / block * block
			p, at, r.zeros = p[skip:], at+skip, false
		}
	}
}

var zeroBlock = make([]byte, 4096)

func isZero(p []byte) bool {
	for len(p) > len(zeroBlock) {
		if !bytes.Equal(p[:len(zeroBlock)], zeroBlock) {
			return false
		}
		p = p[len(zeroBlock):]
	}
	return bytes.Equal(p, zeroBlock[:len(p)])
}

// Rebuild writes the very tar that a layer was unpacked from, to w. What is in the files it takes out of dir, and believes nothing
// it finds there: it follows no link, and a file that is not what it was is an error. Whether the whole is what it was, its digest
// says.
//
// Errors: EBADMSG (exact makes no sense, a file has changed), and those of reading and writing.
func Rebuild(dir *os.File, exact io.Reader, w io.Writer) error {
	in, err := zstd.NewReader(exact, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer in.Close()
	from := bufio.NewReaderSize(in, 64<<10)
	magic := make([]byte, len(exactMagic))
	if _, err := io.ReadFull(from, magic); err != nil || string(magic) != exactMagic {
		return inexact("", "not a record of an archive", err)
	}
	b := rebuilding{dir: dir, from: from, to: w, buf: make([]byte, 256<<10)}
	for {
		more, err := b.next()
		if !more || err != nil {
			return err
		}
	}
}

// inexact is the error of what cannot be made again.
func inexact(file, why string, err error) error {
	errno := syscall.EBADMSG
	if found, ok := errors.AsType[syscall.Errno](err); ok {
		errno = found
	}
	return &engine.Error{Op: "rebuild", File: clip(file), Errno: errno, Why: why, Err: err}
}

// rebuilding is one Rebuild.
type rebuilding struct {
	dir  *os.File
	from *bufio.Reader
	to   io.Writer
	buf  []byte
}

// next does what one record says.
func (b *rebuilding) next() (more bool, err error) {
	head, err := binary.ReadUvarint(b.from)
	if err != nil {
		return false, inexact("", "the record of the archive is cut off", err)
	}
	size := int64(head >> 1)
	if head == 0 {
		return false, nil
	}
	if head&1 == 0 {
		n, err := io.CopyBuffer(struct{ io.Writer }{b.to}, io.LimitReader(b.from, size), b.buf)
		if err == nil && n < size {
			err = inexact("", "the record of the archive is cut off", io.ErrUnexpectedEOF)
		}
		return true, err
	}
	var fixed [4]byte
	if _, err := io.ReadFull(b.from, fixed[:]); err != nil {
		return false, inexact("", "the record of the archive is cut off", err)
	}
	length, err := binary.ReadUvarint(b.from)
	if err == nil && length > pathMax {
		err = syscall.ENAMETOOLONG
	}
	var path []byte
	if err == nil {
		path = make([]byte, length)
		_, err = io.ReadFull(b.from, path)
	}
	if err != nil {
		return false, inexact("", "the record of the archive is cut off", err)
	}
	return true, b.file(string(path), size, binary.LittleEndian.Uint32(fixed[:]))
}

// file writes what is in a file.
func (b *rebuilding) file(path string, size int64, sum uint32) error {
	f, err := within(b.dir, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return inexact(path, "", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return inexact(path, "", err)
	}
	if !info.Mode().IsRegular() || info.Size() != size {
		return inexact(path, "it is not the file any more that the archive had", nil)
	}
	is := crc32.New(castagnoli)
	for left := size; left > 0; {
		n, err := f.Read(b.buf[:min(left, int64(len(b.buf)))])
		if n == 0 && err != nil {
			return inexact(path, "", err)
		}
		is.Write(b.buf[:n])
		if _, err := b.to.Write(b.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if is.Sum32() != sum {
		return inexact(path, "it is not the file any more that the archive had", nil)
	}
	return nil
}
