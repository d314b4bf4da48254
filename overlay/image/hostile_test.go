package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// liar is a registry that does as it is told until meddle takes a request over.
type liar struct {
	http.Handler
	mu     sync.Mutex
	meddle func(w http.ResponseWriter, r *http.Request) bool // guarded by mu
	asked  []string                                          // guarded by mu: paths, of GET
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	meddle := l.meddle
	if r.Method == http.MethodGet {
		l.asked = append(l.asked, r.URL.Path)
	}
	l.mu.Unlock()
	if meddle == nil || !meddle(w, r) {
		l.Handler.ServeHTTP(w, r)
	}
}

// set has requests taken over from now on.
func (l *liar) set(meddle func(w http.ResponseWriter, r *http.Request) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meddle, l.asked = meddle, nil
}

// times is how often a path that contains part was asked for.
func (l *liar) times(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, path := range l.asked {
		if strings.Contains(path, part) {
			n++
		}
	}
	return n
}

func newLiar(t testing.TB) (*liar, string) {
	t.Helper()
	l := &liar{Handler: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	return l, strings.TrimPrefix(server.URL, "http://")
}

// blobOf returns digest and bytes of an image's first layer as it travels.
func blobOf(t testing.TB, img v1.Image) (string, []byte) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return d.String(), text
}

// hang holds a request up until it is given up.
func hang(w http.ResponseWriter, r *http.Request) {
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// TestHostileRegistry: whatever a registry does, the error says it, nothing half-made is left, and the next try works.
func TestHostileRegistry(t *testing.T) {
	img := build(t, layer(t, "big", noise(1<<20, 1)), layer(t, "small", "x"))
	digest, blob := blobOf(t, img)
	size := strconv.Itoa(len(blob))
	config := idOf(t, img)
	part := len(blob) / 2
	cases := []struct {
		name  string
		path  string // what is meddled with
		do    func(w http.ResponseWriter, r *http.Request)
		errno syscall.Errno
		words string
	}{
		{"no such image", "/manifests/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, syscall.ENOENT, "no such image at"},
		{"no such layer", digest, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, syscall.ENOENT, "a part of the image is missing"},
		{"login", "/manifests/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, syscall.EACCES, "write USER PASSWORD into auth"},
		{"login for all", "/v2/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
		}, syscall.EACCES, "needs a login"},
		{"denied", digest, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, syscall.EACCES, "needs a login"},
		{"too many requests", "/manifests/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, syscall.EAGAIN, "too many requests"},
		{"come back tomorrow", digest, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(429)
		}, syscall.EAGAIN, "too many requests"},
		{"trouble", "/manifests/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, syscall.EREMOTEIO, "answers 500"},
		{"trouble with a layer", digest, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, syscall.EREMOTEIO, "answers 503"},
		{"silence", "/manifests/", hang, syscall.ETIMEDOUT, ""},
		{"silence from the start", "/v2/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, syscall.ETIMEDOUT, "does not answer"},
		{"silence in a layer", digest, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", size)
			if r.Header.Get("Range") == "" {
				w.Write(blob[:part])
			}
			hang(w, r)
		}, syscall.ETIMEDOUT, "stopped sending"},
		{"other content", digest, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(append(bytes.Clone(blob[:len(blob)-100]), blob[:100]...))
		}, syscall.EBADMSG, "digest"},
		{"an archive of another layer", digest, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", size)
			w.Write(make([]byte, len(blob)))
		}, syscall.EBADMSG, "digest"},
		{"shorter", digest, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(part))
			w.Write(blob[:part])
		}, syscall.EBADMSG, "length"},
		{"shorter without saying so", digest, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				w.Write(blob[:part])
			}
			w.(http.Flusher).Flush()
		}, syscall.EBADMSG, "breaks off after"},
		{"longer", digest, func(w http.ResponseWriter, _ *http.Request) { w.Write(append(bytes.Clone(blob), 0)) }, syscall.EBADMSG, "length"},
		{"longer without saying so", digest, func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(append(bytes.Clone(blob), 0))
		}, syscall.EBADMSG, "length"},
		{"another part", digest, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", size)
				w.Write(blob[:part])
				return
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(blob)-1, len(blob)))
			w.WriteHeader(206)
			w.Write(blob)
		}, syscall.EBADMSG, "another part"},
		{"other configuration", config, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }, syscall.EBADMSG, ""},
		{"endless manifest", "/manifests/", func(w http.ResponseWriter, r *http.Request) { endless(w, r) }, syscall.EBADMSG, "more than"},
		{"endless configuration", config, func(w http.ResponseWriter, r *http.Request) { endless(w, r) }, syscall.EBADMSG, "length"},
		{"no JSON", "/manifests/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, syscall.EBADMSG, "cannot be read"},
		{"schema 1", "/manifests/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"schemaVersion":1,"fsLayers":[]}`) }, syscall.EOPNOTSUPP, "schema 1"},
		{"two at once", "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"schemaVersion":2,"manifests":[],"layers":[]}`)
		}, syscall.EBADMSG, "at once"},
		{"no image", "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm","digest":%q,"size":2},"layers":[]}`, config)
		}, syscall.EINVAL, "application/vnd.cncf.helm"},
		{"foreign layer", "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[
				{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":2}]}`, config, config)
		}, syscall.EOPNOTSUPP, "licence"},
		{"digest as a path", "/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"schemaVersion":2,"config":{"digest":"sha256:../../../../etc/passwd","size":2},"layers":[]}`)
		}, syscall.EOPNOTSUPP, "not a SHA-256"},
		{"leads to the clear", digest, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://192.0.2.1/blob")
			w.WriteHeader(307)
		}, syscall.EPROTO, "without encryption"},
		{"leads in a circle", digest, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", r.URL.Path)
			w.WriteHeader(307)
		}, syscall.EIO, "on and on"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, host := newLiar(t)
			push(t, host+"/x", img)
			l.set(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, c.path) {
					return false
				}
				c.do(w, r)
				return true
			})
			s := newStore(t)
			_, err := s.Pull(t.Context(), host+"/x", Auth{}, nil)
			wantErrno(t, err, c.errno, "pull", c.words)
			t.Log(err)
			wantTidy(t, s)
			if got := names(t, s, objectsDir); len(got) > 0 {
				t.Errorf("there is half an image: %v", got)
			}
			l.set(nil)
			wantFile(t, pull(t, s, host+"/x").Layers[1], "small", "x")
			wantTidy(t, s)
		})
	}
}

// endless sends more than anybody wants.
func endless(w http.ResponseWriter, r *http.Request) {
	for range 64 << 20 / 4096 {
		if _, err := w.Write(bytes.Repeat([]byte(" "), 4096)); err != nil || r.Context().Err() != nil {
			return
		}
	}
}

// TestContinued: a blob that breaks off is continued where it did, with and without ranges, and trouble that passes is waited for.
func TestContinued(t *testing.T) {
	img := build(t, layer(t, "big", noise(1<<20, 2)))
	digest, blob := blobOf(t, img)
	for _, ranges := range []bool{true, false} {
		l, host := newLiar(t)
		push(t, host+"/x", img)
		var ranged atomic.Int64
		sick := 2 // how many answers are trouble first
		l.set(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") && sick > 0 {
				sick--
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(503)
				return true
			}
			if !strings.Contains(r.URL.Path, digest) {
				return false
			}
			from := 0
			if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); n == 1 && ranges {
				ranged.Add(1)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
				w.Header().Set("Content-Length", strconv.Itoa(len(blob)-from))
				w.WriteHeader(206)
			} else {
				from = 0
				w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
			}
			// A bit more each time: also who cannot do ranges gets there in the end.
			end := min(len(blob), 200_000*l.times(digest))
			if from < end {
				w.Write(blob[from:end])
			}
			if end < len(blob) {
				panic(http.ErrAbortHandler)
			}
			return true
		})
		s := newStore(t)
		p := new(Progress)
		h, err := s.Pull(t.Context(), host+"/x", Auth{}, p)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Release()
		wantFile(t, h.Layers[0], "big", noise(1<<20, 2))
		if got := p.Read().Bytes; got != int64(len(blob)) {
			t.Errorf("%d bytes came, want %d", got, len(blob))
		}
		if (ranged.Load() > 3) != ranges {
			t.Errorf("%d ranges were asked for", ranged.Load())
		}
	}
}

// TestLogins: credentials reach the registry and nobody else.
func TestLogins(t *testing.T) {
	img := build(t, layer(t, "f", noise(1000, 3)))
	digest, blob := blobOf(t, img)
	var leaked atomic.Value
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := r.Header.Get("Authorization") + r.Header.Get("Cookie"); h != "" {
			leaked.Store(h)
		}
		w.Write(blob)
	}))
	defer elsewhere.Close()
	l, host := newLiar(t)
	push(t, host+"/x", img)
	l.set(func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "se cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			return true
		}
		if !strings.Contains(r.URL.Path, digest) {
			return false
		}
		w.Header().Set("Location", strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)+"/there")
		w.WriteHeader(307)
		return true
	})
	auth, err := ParseAuth("me se cret\n")
	if err != nil {
		t.Fatal(err)
	}
	h, err := newStore(t).Pull(t.Context(), host+"/x", auth, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	config := t.TempDir() + "/config.json"
	text := fmt.Sprintf(`{"credsStore":"must-not-run","auths":{"https://%s/v1/":{"auth":"bWU6c2UgY3JldA=="},"other.example":{"auth":"eDp5"}}}`, host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), func(o *Options) { o.DockerConfig = config })
	if h, err = s.Pull(t.Context(), host+"/x", Auth{}, nil); err != nil {
		t.Fatal(err)
	}
	h.Release()
	if got := leaked.Load(); got != nil {
		t.Errorf("another host was told %q", got)
	}
	_, err = newStore(t).Pull(t.Context(), host+"/x", Auth{User: "me", Password: "wrong"}, nil)
	wantErrno(t, err, syscall.EACCES, "does not let this login in")
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the password is in %q", err)
	}
}

// TestDockerConfig finds the login that is meant.
func TestDockerConfig(t *testing.T) {
	text := []byte(`{"auths":{
		"https://index.docker.io/v1/":{"auth":"aHViOnA6cQ=="},
		"docker.io/library":{"username":"library","password":"p"},
		"quay.example":{"auth":"PHRva2VuPjo=","identitytoken":"id"},
		"quay.example/a":{"registrytoken":"bearer"},
		"empty.example":{}}}`)
	for image, want := range map[string]Auth{
		"someone/x":        {User: "hub", Password: "p:q"},
		"busybox":          {User: "library", Password: "p"},
		"quay.example/b/x": {User: "<token>", identity: "id"},
		"quay.example/a/x": {Token: "bearer"},
		"quay.example/ab":  {User: "<token>", identity: "id"},
		"empty.example/x":  {},
		"other.example/x":  {},
	} {
		ref, err := ParseReference(image)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseDockerConfig(text, ref.Context()); err != nil || got != want {
			t.Errorf("for %s got %+v, %v, want %+v", image, got, err, want)
		}
	}
	for _, bad := range []string{"", "[]", `{"auths":{"docker.io":{"auth":"*"}}}`} {
		ref, _ := ParseReference("x")
		if _, err := parseDockerConfig([]byte(bad), ref.Context()); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestInterrupted: a pull ends at once when it is told to.
func TestInterrupted(t *testing.T) {
	img := build(t, layer(t, "big", noise(1<<20, 4)))
	digest, blob := blobOf(t, img)
	l, host := newLiar(t)
	push(t, host+"/x", img)
	came := make(chan bool, 10)
	l.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, digest) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		w.Write(blob[:1000])
		came <- true
		hang(w, r)
		return true
	})
	s := newStore(t)
	s.hurry(time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-came
		time.Sleep(100 * time.Millisecond)
		cancel()
	}()
	begin := time.Now()
	_, err := s.Pull(ctx, host+"/x", Auth{}, nil)
	wantErrno(t, err, syscall.EINTR, "interrupted")
	if past := time.Since(begin); past > 2*time.Second {
		t.Errorf("it took %v", past)
	}
	wantTidy(t, s)
}

// TestShared: of pulls that want the same layer at once one gets it, and when that one fails another does.
func TestShared(t *testing.T) {
	shared := layer(t, "shared", noise(500_000, 5))
	one, two := build(t, shared, layer(t, "one", "1")), build(t, shared, layer(t, "two", "2"))
	digest, blob := blobOf(t, one)
	l, host := newLiar(t)
	push(t, host+"/one", one)
	push(t, host+"/two", two)
	slow := func(fail bool) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, digest) {
				return false
			}
			time.Sleep(200 * time.Millisecond)
			if fail && l.times(digest) == 1 {
				w.Write(bytes.Repeat([]byte("x"), len(blob)))
				return true
			}
			return false
		}
	}
	for _, fail := range []bool{false, true} {
		l.set(slow(fail))
		s := newStore(t)
		s.hurry(5 * time.Second)
		var wait sync.WaitGroup
		var errs [2]error
		var progress [2]Progress
		for i, ref := range []string{"/one", "/two"} {
			wait.Go(func() {
				var h *Held
				if h, errs[i] = s.Pull(t.Context(), host+ref, Auth{}, &progress[i]); errs[i] == nil {
					defer h.Release()
					if r := progress[i].Read(); r.Bytes != r.Total || r.LayersDone != 2 {
						t.Errorf("the progress ends as\n%v", r)
					}
					wantFile(t, h.Layers[0], "shared", noise(500_000, 5))
				}
			})
		}
		wait.Wait()
		want, failed := 1, 0
		if fail {
			want, failed = 2, 1
		}
		if got := l.times(digest); got != want {
			t.Errorf("the layer was asked for %d times, want %d", got, want)
		}
		for _, err := range errs {
			if err != nil {
				failed--
			}
		}
		if failed != 0 {
			t.Errorf("the pulls ended with %v", errs)
		}
		wantTidy(t, s)
	}
}

// TestMirrors asks mirrors first, and does without them when they do not help.
func TestMirrors(t *testing.T) {
	img := build(t, layer(t, "f", "x"))
	mirror, at := newLiar(t)
	origin, host := newLiar(t)
	push(t, at+"/cache/a/x:1", img)
	push(t, host+"/a/x:1", img)
	push(t, host+"/a/y:1", img)
	table, err := ParseMirrors(fmt.Sprintf("# ours\n%s 127.0.0.1:1 %s/cache\n", host, at))
	if err != nil {
		t.Fatal(err)
	}
	origin.set(nil)
	mirror.set(nil)
	s := openStore(t, t.TempDir(), func(o *Options) { o.Mirrors = table })
	if h := pull(t, s, host+"/a/x:1"); h.Reference != host+"/a/x:1" || origin.times("/") != 0 {
		t.Errorf("the registry was asked %d times for %s", origin.times("/"), h.Reference)
	}
	pull(t, s, host+"/a/y:1")
	if mirror.times("/manifests/") != 2 || origin.times("/manifests/") != 1 {
		t.Errorf("the mirror was asked %d times and the registry %d", mirror.times("/manifests/"), origin.times("/manifests/"))
	}
}
