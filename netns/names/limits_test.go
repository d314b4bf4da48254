package names

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// cpu is the processor time of this process so far.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// flood sends a query from an address as fast as it can, and reads nothing, until stopped. It returns how many it sent.
func flood(t testing.TB, from, server string, q *dns.Msg, stop <-chan struct{}) int {
	c, err := dialer("udp", from, time.Second).Dial("udp", server)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer c.Close()
	b, _ := q.Pack()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return n
		default:
			c.Write(b)
		}
	}
}

// asks asks n times, one after the other, and returns how long each took, sorted; a query without an answer is an error.
func asks(t testing.TB, from, server, name string, n int) []time.Duration {
	t.Helper()
	c, err := dialer("udp", from, time.Second).Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, _ := question(name, dns.TypeA).Pack()
	reply := make([]byte, 512)
	var took []time.Duration
	for i := range n {
		b[0], b[1] = byte(i>>8), byte(i)
		began := time.Now()
		c.Write(b)
		c.SetReadDeadline(began.Add(3 * time.Second))
		if _, err := c.Read(reply); err != nil || reply[0] != b[0] || reply[1] != b[1] {
			t.Fatalf("query %d: %v", i, err)
		}
		took = append(took, time.Since(began))
		time.Sleep(time.Millisecond)
	}
	slices.Sort(took)
	return took
}

// TestFlood: one asker sends what it can, own names and others; all answers of another one come, and soon.
func TestFlood(t *testing.T) {
	u := serveUpstream(t, echo)
	slow := serveUpstream(t, func(dns.ResponseWriter, *dns.Msg) {})
	for _, c := range []struct {
		what string
		q    *dns.Msg
		own  string
		from []string
	}{
		{"own names", question("web", dns.TypeA), "web", []string{"127.0.0.2"}},
		{"names that nobody answers", question("silent.example.org", dns.TypeA), "web", []string{"127.0.0.2"}},
		{"names that nobody answers, forwards", question("silent.example.org", dns.TypeA), "example.org", []string{"127.0.0.2"}},
		{"strangers", question("web", dns.TypeA), "web", []string{"127.1.0.2", "127.1.0.3"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			servers := func(asker netip.Addr) []netip.AddrPort {
				if asker == ip("127.0.0.2") {
					return list(slow)()
				}
				return nil
			}
			before := runtime.NumGoroutine()
			r, server := start(t, Config{Upstream: list(u), Servers: servers})
			calm := asks(t, "127.0.0.3", server, c.own, 50)
			stop, sent := make(chan struct{}), atomic.Int64{}
			var floods sync.WaitGroup
			for _, from := range c.from {
				floods.Go(func() { sent.Add(int64(flood(t, from, server, c.q, stop))) })
			}
			end := sync.OnceFunc(func() { close(stop); floods.Wait() })
			defer end()
			began, peak := time.Now(), atomic.Int64{}
			floods.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
						peak.Store(max(peak.Load(), int64(runtime.NumGoroutine()-before)))
					}
				}
			})
			took := asks(t, "127.0.0.3", server, c.own, 500)
			end()
			s, during := r.Stats(), time.Since(began)
			t.Logf("calm p50 %v; flood %.0f/s: p50 %v p99 %v max %v; %d goroutines; %+v", calm[25], float64(sent.Load())/during.Seconds(),
				took[250], took[495], took[499], peak.Load(), s)
			if took[495] > 200*time.Millisecond {
				t.Errorf("p99 is %v", took[495])
			}
			// Two goroutines of the resolver, those of the test, and the forwards of one asker.
			if n := peak.Load(); n > 2+10+int64(r.config.Limits.ForwardsEach) {
				t.Errorf("%d goroutines", n)
			}
			if limit := uint64(float64(r.config.Limits.Rate)*during.Seconds()*1.1) + uint64(2*r.config.Limits.Burst); s.Asked > limit {
				t.Errorf("%d queries were taken, in %v", s.Asked, during)
			}
			r.Close()
			eventually(t, "goroutines are left", func() bool { return runtime.NumGoroutine() <= before })
		})
	}
}

// TestMuted: of who floods little is read for as long as it goes on, all of others, and a moment later all of it again.
func TestMuted(t *testing.T) {
	for _, server := range []string{"127.9.0.1", "::1"} {
		r, at := start(t, Config{Addresses: []netip.Addr{ip(server)}, Limits: Limits{Rate: 1000, Burst: 10}})
		c, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, _ := question("web", dns.TypeA).Pack()
		send := func(n int) {
			for range n {
				c.Write(b)
			}
			time.Sleep(10 * time.Millisecond)
		}
		send(200)
		read := r.dropped.Load() + r.asked.Load()
		for end := time.Now().Add(2 * muteTime); time.Now().Before(end); {
			send(1000)
		}
		s := r.Stats()
		all := s.Asked + s.Dropped - 200
		if again := r.dropped.Load() + r.asked.Load() - read; again > all/thinning*3/2 || again < all/thinning/2 {
			t.Errorf("%s: of %d datagrams of a muted asker %d were read", server, all, again)
		}
		if all%1000 != 0 {
			t.Errorf("%s: %+v", server, s)
		}
		if server != "::1" { // it is the only address there
			exchange(t, "udp", "127.0.0.3", at, question("web", dns.TypeA))
		}
		time.Sleep(2*muteTime + 50*time.Millisecond)
		if again := r.asked.Load(); len(asks(t, "", at, "web", 20)) != 20 || r.asked.Load() != again+20 {
			t.Errorf("%s: still muted", server)
		}
	}
}

// TestFilter: the program drops who is on its list, and nobody else; each length of list, and both families.
func TestFilter(t *testing.T) {
	for _, family := range []struct{ server, prefix string }{{"127.9.0.1", "127.0.1."}, {"::1", "fd00::"}} {
		r, at := start(t, Config{Addresses: []netip.Addr{ip(family.server)}, Limits: Limits{Burst: 1e6}})
		from := family.server // a client of ::1 is ::1
		if family.server != "::1" {
			from = "127.0.1.200"
		}
		c, err := dialer("udp", from, time.Second).Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, _ := question("web", dns.TypeA).Pack()
		for _, n := range []int{0, 1, 2, 31, 32} {
			for _, mine := range []bool{false, n > 0} {
				var list []netip.Addr
				for i := range n {
					list = append(list, ip(fmt.Sprint(family.prefix, i+1)))
				}
				want := uint64(500)
				if mine {
					list[n-1], want = ip(from), 500/thinning
				}
				if err := attach(r.udp[0].raw, program(family.server == "::1", list)); err != nil {
					t.Fatal(err)
				}
				before := r.asked.Load()
				for range 500 {
					c.Write(b)
				}
				time.Sleep(30 * time.Millisecond)
				if got := r.asked.Load() - before; mine && (got == 0 || got > 4*want) || !mine && got != want {
					t.Errorf("%s, %d of a list, among them %v: %d of 500", family.server, n, mine, got)
				}
			}
		}
	}
}

// TestFull: forwards beyond an asker's slots are dropped, those of the next asker are not, whoever is there already.
func TestFull(t *testing.T) {
	release := make(chan struct{})
	u := serveUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		echo(w, q)
	})
	r, server := start(t, Config{Upstream: list(u), Limits: Limits{Forwards: 20, ForwardsEach: 8}})
	b, _ := question("example.org", dns.TypeA).Pack()
	total := 0
	for _, c := range []struct {
		from string
		want int
	}{{"127.0.0.2", 8}, {"127.0.0.3", 6}, {"127.0.0.4", 3}, {"127.0.0.5", 2}, {"127.0.0.6", 1}, {"127.0.0.7", 0}} {
		conn, err := dialer("udp", c.from, time.Second).Dial("udp", server)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		asked := r.asked.Load()
		for range 10 {
			conn.Write(b)
		}
		eventually(t, "not read", func() bool { return r.asked.Load() == asked+10 })
		time.Sleep(20 * time.Millisecond)
		total += c.want
		if got := int(r.forwarded.Load()); got != total {
			t.Errorf("%s: %d in flight, not %d", c.from, got, total)
		}
		// Its own network answers all the same, and by TCP it hears why not.
		exchange(t, "udp", c.from, server, question("web", dns.TypeA))
	}
	if got := render(exchange(t, "tcp", "127.0.0.8", server, question("example.org", dns.TypeA))); got != "SERVFAIL rd ra" {
		t.Error(got)
	}
	close(release)
	eventually(t, "slots are lost", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.flying.free == 20
	})
}

// TestAskers: only members are remembered, so many at most, and those that ask no more are forgotten.
func TestAskers(t *testing.T) {
	r, _ := start(t, Config{Limits: Limits{Askers: 3}})
	if r.asker(ip("10.9.0.77"), 1) != &r.strangers || r.asker(ip("198.51.100.1"), 1) != &r.strangers || len(r.askers) != 0 {
		t.Error("strangers are remembered")
	}
	first := r.asker(ip("127.0.0.1"), 1)
	r.asker(ip("127.0.0.2"), int64(time.Hour))
	r.asker(ip("127.0.0.3"), int64(time.Hour))
	if first == &r.strangers || r.asker(ip("127.0.0.1"), 2) != first {
		t.Error("a member is forgotten")
	}
	if r.asker(ip("127.0.0.4"), int64(time.Second)) != &r.strangers {
		t.Error("more askers than the limit")
	}
	if r.asker(ip("127.0.0.4"), int64(time.Hour)) == &r.strangers || len(r.askers) != 3 {
		t.Error("an asker that asks no more stays")
	}
}

// TestTake: whoever comes next finds a slot, as long as there is one.
func TestTake(t *testing.T) {
	s, mine := slots{free: 100, each: 50}, make([]int, 200)
	for range 200 { // greedy ones first
		for i := range 9 {
			s.take(&mine[i])
		}
	}
	if s.free < 10 || slices.Max(mine[:9]) > 11 {
		t.Errorf("%d free, %v", s.free, mine[:9])
	}
	for i := 9; s.free > 0; i++ {
		if !s.take(&mine[i]) {
			t.Fatalf("the asker %d finds none of %d", i, s.free)
		}
	}
	if s.take(&mine[199]) {
		t.Error("one slot too many")
	}
	for i := range mine {
		for mine[i] > 0 {
			s.give(&mine[i])
		}
	}
	if s.free != 100 {
		t.Error(s.free)
	}
}

// BenchmarkOwnNames: eight askers, each with several queries under way.
func BenchmarkOwnNames(b *testing.B) {
	_, server := start(b, Config{Limits: Limits{Rate: 1e9, Burst: 1e6}})
	const askers, window = 8, 16
	var all sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range askers {
		c, err := dialer("udp", fmt.Sprintf("127.0.0.%d", i+1), time.Second).Dial("udp", server)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		all.Go(func() {
			q, _ := question(fmt.Sprintf("n%d", i), dns.TypeA).Pack()
			reply := make([]byte, 512)
			for range window {
				c.Write(q)
			}
			for left.Add(-1) > 0 {
				c.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := c.Read(reply); err != nil {
					b.Error(err)
					return
				}
				c.Write(q)
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}

// BenchmarkAnswer is what one query costs without the kernel.
func BenchmarkAnswer(b *testing.B) {
	r, _ := start(b, Config{})
	q, _ := question("web", dns.TypeA).Pack()
	s := &scratch{}
	b.ReportAllocs()
	for b.Loop() {
		r.answer(s, q, ip("127.0.0.1"), false)
	}
}
