package names

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Zone knows the names of one network. It is called concurrently, for every query, and must be quick.
type Zone interface {
	// Lookup returns the addresses of a name, in lower case and without the last dot, as the container at asker may use it. ok says
	// that the name is one of the network's: nobody else is asked for it then, even if it has no address of a family, or none at all.
	Lookup(asker netip.Addr, name string) (addrs []netip.Addr, ok bool)
	// Reverse returns the names of an address; ok is false if it is not in the network's subnets. An asker whose own address has no
	// name counts as a stranger, see Limits.
	Reverse(asker, addr netip.Addr) (names []string, ok bool)
}

// Config is what a resolver is made of. Its functions are called concurrently.
type Config struct {
	Addresses []netip.Addr                            // the network's gateways
	Port      uint16                                  // 0 is 53
	Link      string                                  // only what comes in by this device is read; empty: by any, and then it should not be reachable from elsewhere
	Zone      Zone                                    //
	Upstream  func() []netip.AddrPort                 // the host's servers at this moment; nil: nothing ever leaves the network
	Servers   func(asker netip.Addr) []netip.AddrPort // nil, or the asker's own servers, if it has any, in place of Upstream's
	Limits    Limits                                  // what is 0 has its default
	Log       *slog.Logger                            // nil: none
}

// Stats counts since Serve.
type Stats struct {
	Asked     uint64 // queries that were read
	Answered  uint64 // replies that were sent, forwarded ones included
	Forwarded uint64 // queries that went to other servers
	Failed    uint64 // of these, the ones that no server answered
	Dropped   uint64 // datagrams and connections beyond a limit, and what is no query; the kernel's count included
}

// TTL is how many seconds an answer about the network may be kept. A container that starts again may have another address, and clients
// should see that soon; but some ask anew for each connection when it is 0, and some take 0 for an error.
const TTL = 5

// defaultPort is where resolv.conf(5) says that servers are: it has no field for it.
const defaultPort = 53

// turns bounds how many processors all resolvers of the process use at a time: the mount is served by the same ones.
var turns = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// Resolver serves one network.
type Resolver struct {
	config Config // immutable
	log    *slog.Logger
	until  context.Context // ends with Close
	end    context.CancelFunc
	work   sync.WaitGroup // all goroutines
	udp    []*udp         // immutable after Serve
	tcp    []net.Listener // immutable after Serve

	asked, answered, forwarded, failed, dropped atomic.Uint64

	mu        sync.Mutex
	closed    bool                  // guarded by mu: no goroutine is added any more
	askers    map[netip.Addr]*asker // guarded by mu
	strangers asker                 // its counters guarded by mu
	flying    slots                 // guarded by mu: forwards
	conns     slots                 // guarded by mu: TCP connections
	open      map[net.Conn]struct{} // guarded by mu: the connections themselves, for Close
}

// serving holds the addresses of all resolvers of the process: one is never asked by another, which might ask it back.
var serving struct {
	sync.Mutex
	at map[netip.AddrPort]int
}

// Serve opens the sockets and answers from then on. An error has the errno of the call that failed, such as EADDRINUSE; nothing is open then.
func Serve(c Config) (*Resolver, error) {
	c.Addresses = slices.Clone(c.Addresses)
	for i, a := range c.Addresses {
		c.Addresses[i] = a.Unmap()
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	c.Limits = c.Limits.orDefault()
	r := &Resolver{
		config: c, log: c.Log,
		askers: map[netip.Addr]*asker{},
		open:   map[net.Conn]struct{}{},
		flying: slots{free: c.Limits.Forwards, each: c.Limits.ForwardsEach},
		conns:  slots{free: c.Limits.Conns, each: c.Limits.ConnsEach},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.until, r.end = context.WithCancel(context.Background())
	for _, a := range c.Addresses {
		if err := r.listen(netip.AddrPortFrom(a, c.Port)); err != nil {
			r.Close()
			return nil, err
		}
	}
	for _, u := range r.udp {
		r.work.Go(u.serve)
	}
	for _, l := range r.tcp {
		r.work.Go(func() { r.accept(l) })
	}
	return r, nil
}

// listen opens both sockets of an address.
func (r *Resolver) listen(at netip.AddrPort) error {
	u, err := listenUDP(r, at)
	if err != nil {
		return fmt.Errorf("listen on %s, udp: %w", at, err)
	}
	r.udp = append(r.udp, u)
	l, err := listenTCP(at, r.config.Link)
	if err != nil {
		return fmt.Errorf("listen on %s, tcp: %w", at, err)
	}
	r.tcp = append(r.tcp, l)
	return nil
}

// Close ends everything at once, forwards in flight included, and returns when no goroutine is left.
func (r *Resolver) Close() error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	conns := make([]net.Conn, 0, len(r.open))
	for c := range r.open {
		conns = append(conns, c)
	}
	r.mu.Unlock()
	if again {
		r.work.Wait()
		return nil
	}
	r.end()
	for _, u := range r.udp {
		u.close()
	}
	for _, l := range r.tcp {
		l.Close()
	}
	for _, c := range conns {
		c.Close()
	}
	r.work.Wait()
	return nil
}

// Stats returns the counters.
func (r *Resolver) Stats() Stats {
	s := Stats{
		Asked: r.asked.Load(), Answered: r.answered.Load(), Forwarded: r.forwarded.Load(),
		Failed: r.failed.Load(), Dropped: r.dropped.Load(),
	}
	for _, u := range r.udp {
		s.Dropped += u.kernelDrops()
	}
	return s
}

// pause waits a moment after an error that may last, so that no loop spins; false says that the resolver ends.
func (r *Resolver) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.until.Done():
		return false
	}
}

// turn waits for one of the processors that resolvers may use, and takes it.
func (r *Resolver) turn() bool {
	select {
	case turns <- struct{}{}:
		return true
	case <-r.until.Done():
		return false
	}
}

func announce(at netip.AddrPort, by int) {
	serving.Lock()
	defer serving.Unlock()
	if serving.at == nil {
		serving.at = map[netip.AddrPort]int{}
	}
	if serving.at[at] += by; serving.at[at] <= 0 {
		delete(serving.at, at)
	}
}

// ours says whether a server is a resolver of this process.
func ours(server netip.AddrPort) bool {
	serving.Lock()
	defer serving.Unlock()
	return serving.at[netip.AddrPortFrom(server.Addr().Unmap(), server.Port())] > 0
}
