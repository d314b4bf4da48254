package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/ctrfs/ctrfs/engine"
)

const (
	tries    = 5                // of one request, or of one blob without a byte in between
	waitMax  = 60 * time.Second // that a registry may ask for before the next try
	redirect = 10               // that are followed
)

// registry is one repository of a registry, and the way in.
type registry struct {
	repo   name.Repository
	client *http.Client
	login  bool // it was told who asks
	s      *Store
}

// newRegistry knocks at a registry, which says how it wants to be told who asks.
func (s *Store) newRegistry(ctx context.Context, repo name.Repository, auth Auth) (*registry, error) {
	login, err := s.login(repo, auth)
	if err != nil {
		return nil, err
	}
	r := &registry{repo: repo, login: login != authn.Anonymous, s: s}
	rt, err := transport.NewWithContext(ctx, repo.Registry, login, s.transport, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, r.explain(ctx, err, "")
	}
	r.client = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return r, nil
}

// get asks for something below the repository. The answer is one of the codes; its body, which the caller closes, fails
// when nothing comes for a while.
func (r *registry) get(ctx context.Context, path string, header http.Header, codes ...int) (_ *http.Response, err error) {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			err = r.explain(outer, err, path)
			cancel(nil)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.repo.RegistryStr()+"/v2/"+r.repo.RepositoryStr()+path, nil)
	if err != nil {
		return nil, err
	}
	if loopback(req.URL.Hostname()) {
		req.URL.Scheme = "http" // what does answer there, the transport knows
	}
	for key, values := range header {
		req.Header[key] = values
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &patient{body: resp.Body, cancel: cancel, patience: r.s.patience}
	if err := transport.CheckError(resp, codes...); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// patient is the body of an answer that fails when nothing comes for a while.
type patient struct {
	body     io.ReadCloser
	cancel   context.CancelCauseFunc // of the request
	patience time.Duration
	stalled  bool
}

func (p *patient) Read(to []byte) (int, error) {
	if p.stalled {
		return 0, errStalled
	}
	timer := time.AfterFunc(p.patience, func() { p.cancel(errStalled) })
	n, err := p.body.Read(to)
	if !timer.Stop() {
		p.stalled = true
		if n == 0 {
			err = errStalled
		}
	}
	return n, err
}

func (p *patient) Close() error {
	p.cancel(nil)
	return p.body.Close()
}

var (
	errStalled  = &engine.Error{Op: "pull", Errno: syscall.ETIMEDOUT, Why: "the registry has stopped sending", Cure: "try again; what had come in full is kept for a moment"}
	errPlain    = errors.New("it is on another machine and would be asked without encryption")
	errRedirect = errors.New("it leads from an encrypted connection to one that is not")
)

// loopback reports whether a host is this machine, to which nobody listens on the way.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= redirect {
		return fmt.Errorf("it leads on and on, %d times", len(via))
	}
	if req.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https" {
		return errRedirect
	}
	return nil
}

// steady is a transport for registries. It asks again where that may help, and never asks another machine in the clear.
type steady struct {
	inner *http.Transport
	pause func(try int) time.Duration
}

func newTransport(s *Store) *steady {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &steady{pause: func(try int) time.Duration { return s.pause(try) }, inner: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: s.patience,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   parallel + 1,
		// A digest is one of what was sent, and so is a range.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         32 << 10,
	}}
}

// RoundTrip is a request with its repetitions.
func (t *steady) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !loopback(req.URL.Hostname()) {
		return nil, errPlain
	}
	for try := 1; ; try++ {
		resp, err := t.inner.RoundTrip(req)
		wait, again := t.again(resp, err, try)
		if !again || req.Body != nil && req.GetBody == nil {
			return resp, err
		}
		if resp != nil {
			io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
			resp.Body.Close()
		}
		if err := sleep(req.Context(), wait); err != nil {
			return nil, err
		}
		if req.Body != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// again reports whether to ask again, and when.
func (t *steady) again(resp *http.Response, err error, try int) (wait time.Duration, again bool) {
	if try >= tries {
		return 0, false
	}
	wait = t.pause(try)
	if err != nil {
		return wait, errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	}
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < 500 {
		return 0, false
	}
	if asked, ok := retryAfter(resp.Header.Get("Retry-After")); ok {
		return asked, asked <= waitMax
	}
	return wait, true
}

// retryAfter reads how long a registry wants to be left alone: seconds, or a date.
func retryAfter(text string) (time.Duration, bool) {
	if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<30)) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at)), true
	}
	return 0, false
}

// backOff is the pause after a try: half a second, one, two, …, not all at the same moment.
func backOff(try int) time.Duration {
	pause := 250 * time.Millisecond << min(try, 5)
	return pause + rand.N(pause/2)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// explain makes what a registry, or the way to it, said into an error for people.
func (r *registry) explain(ctx context.Context, err error, path string) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if e, ok := errors.AsType[*engine.Error](err); ok {
		return e
	}
	host := r.repo.RegistryStr()
	if host == name.DefaultRegistry {
		host = dockerHub
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return r.explainStatus(e, host, path)
	}
	e := &engine.Error{Op: "pull", Value: host, Errno: engine.Errno(err), Err: err}
	var dns *net.DNSError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.Is(err, errPlain), errors.Is(err, errRedirect):
		e.Errno, e.Cure = syscall.EPROTO, "have the registry use TLS"
	case errors.As(err, &dns):
		e.Errno, e.Err, e.Why, e.Cure = syscall.EHOSTUNREACH, nil, "the name "+dns.Name+" leads nowhere", "see whether it is written right, and whether this machine has a name server"
	case errors.As(err, &verify):
		e.Errno, e.Cure = syscall.EPROTO, "have this machine trust the registry's certificate"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Why, e.Err, e.Cure = "nobody answers at "+host, nil, "see whether the registry runs"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		e.Errno, e.Err, e.Why, e.Cure = syscall.ETIMEDOUT, nil, host+" does not answer", "see whether the registry runs"
	}
	return e
}

const dockerHub = "docker.io" // what people call name.DefaultRegistry

func (r *registry) explainStatus(said *transport.Error, host, path string) error {
	e := &engine.Error{Op: "pull", Value: host, Errno: syscall.EREMOTEIO, Why: fmt.Sprintf("%s answers %d", host, said.StatusCode)}
	for _, d := range said.Errors {
		e.Why += fmt.Sprintf(", %.40s: %.200s", d.Code, d.Message)
	}
	switch said.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Errno = syscall.EACCES
		if r.login {
			e.Why, e.Cure = host+" does not let this login in, or there is no such image", "write USER PASSWORD into auth"
		} else {
			e.Why, e.Cure = host+" needs a login, or there is no such image", "write USER PASSWORD into auth"
		}
	case http.StatusNotFound:
		e.Errno = syscall.ENOENT
		e.Why, e.Cure = "there is no such image at "+host, "see whether name and tag are written right"
		if strings.HasPrefix(path, "/blobs/") {
			e.Why, e.Cure = "a part of the image is missing at "+host, "have it pushed again"
		}
	case http.StatusTooManyRequests:
		e.Errno, e.Cure = syscall.EAGAIN, "wait a while, or write USER PASSWORD into auth"
		if said.Request != nil {
			e.Why = host + " has had too many requests"
		}
	default:
		e.Cure = "try again later"
	}
	return e
}
