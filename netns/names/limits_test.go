package names

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
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

// flood makes a process of its own send a query from an address as fast as it can, and read nothing. In this process it would keep the resolver
// from its processor, which no container can. stop returns how many it sent.
func flood(t testing.TB, from, server, name string) (stop func() int) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestFlooder$")
	c.Env = append(os.Environ(), "FLOOD="+from+" "+server+" "+name)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	c.Stdout = &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return sync.OnceValue(func() (n int) {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
		fmt.Sscan(out.String(), &n)
		return n
	})
}

// TestFlooder is the other process.
func TestFlooder(t *testing.T) {
	args := strings.Fields(os.Getenv("FLOOD"))
	if len(args) != 3 {
		t.Skip("a part of TestFlood")
	}
	c, err := dialer("udp", args[0], time.Second).Dial("udp", args[1])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	over := make(chan struct{})
	go func() {
		os.Stdin.Read(make([]byte, 1))
		close(over)
	}()
	b, _ := question(args[2], dns.TypeA).Pack()
	for n := 0; ; n++ {
		select {
		case <-over:
			fmt.Println(n)
			return
		default:
			c.Write(b)
		}
	}
}

// asks asks n times, one after the other, and returns how long each took, sorted. A query without an answer is asked again after two seconds, which
// may happen once: when a flood begins while this process has no processor, nobody is muted yet and the socket's buffer is everybody's.
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
	lost := 0
	for len(took) < n {
		binary.BigEndian.PutUint16(b, uint16(len(took)))
		began := time.Now()
		c.Write(b)
		c.SetReadDeadline(began.Add(2 * time.Second))
		if _, err := c.Read(reply); err != nil || reply[0] != b[0] || reply[1] != b[1] {
			if lost++; lost > 1 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("query %d: %v", len(took), err)
			}
			t.Logf("query %d was lost", len(took))
			continue
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
	for _, c := range []struct{ what, floods, own, from string }{
		{"own names", "web", "web", "127.0.0.2"},
		{"names that nobody answers", "silent.example.org", "web", "127.0.0.2"},
		{"names that nobody answers, forwards", "silent.example.org", "example.org", "127.0.0.2"},
		{"strangers", "web", "web", "127.1.0.2 127.1.0.3"},
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
			var floods []func() int
			for _, from := range strings.Fields(c.from) {
				stop := flood(t, from, server, c.floods)
				defer stop()
				floods = append(floods, stop)
			}
			eventually(t, "no flood", func() bool { return r.asked.Load() > 60 })
			began, over, peak := time.Now(), make(chan struct{}), make(chan int)
			go func() {
				for n := 0; ; n = max(n, runtime.NumGoroutine()-before) {
					select {
					case <-over:
						peak <- n
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			}()
			used := cpu(t)
			took := asks(t, "127.0.0.3", server, c.own, 500)
			during := time.Since(began)
			used = cpu(t) - used
			close(over)
			most, sent := <-peak, 0
			for _, stop := range floods {
				sent += stop()
			}
			s := r.Stats()
			t.Logf("calm p50 %v; flood %.0f/s: p50 %v p99 %v max %v; %.0f %% of a processor, %d goroutines; %+v", calm[25], float64(sent)/during.Seconds(),
				took[250], took[495], took[499], 100*used.Seconds()/during.Seconds(), most, s)
			if took[495] > 200*time.Millisecond {
				t.Errorf("p99 is %v", took[495])
			}
			// Two goroutines of the resolver, those of the test, the forwards of one asker, and for a moment those of the server they ask.
			if most > 2+10+2*r.config.Limits.ForwardsEach {
				t.Errorf("%d goroutines", most)
			}
			if limit := uint64(float64(r.config.Limits.Rate)*during.Seconds()*1.1) + uint64(2*r.config.Limits.Burst) + 550; s.Asked > limit {
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
		sent := uint64(0)
		send := func(n int) {
			for range n {
				c.Write(b)
			}
			sent += uint64(n)
			eventually(t, "not read", func() bool { s := r.Stats(); return s.Asked+s.Dropped == sent })
		}
		send(200)
		read := r.dropped.Load() + r.asked.Load()
		for end := time.Now().Add(4 * muteTime); time.Now().Before(end); {
			send(1000)
		}
		all := sent - 200
		if again := r.dropped.Load() + r.asked.Load() - read; again > all/thinning*3/2 || again < all/thinning/2 {
			t.Errorf("%s: of %d datagrams of a muted asker %d were read", server, all, again)
		}
		if server != "::1" { // it is the only address there
			exchange(t, "udp", "127.0.0.3", at, question("web", dns.TypeA))
		}
		time.Sleep(4 * muteTime)
		if again := r.asked.Load(); len(asks(t, "", at, "web", 20)) != 20 || r.asked.Load() != again+20 {
			t.Errorf("%s: still muted", server)
		}
	}
}

// TestUnmute: an asker is let in again after two periods without too much, and not as long as something waits to be counted.
func TestUnmute(t *testing.T) {
	r := &Resolver{config: Config{Limits: Limits{}.orDefault()}}
	at := netip.AddrPortFrom(gateway, freePort(t, gateway))
	u, err := listenUDP(r, at)
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	loud, late, now := ip("127.0.0.2"), ip("127.0.0.3"), time.Now()
	u.mute(loud, now)
	u.mute(late, now.Add(muteTime/2))
	allowed := r.config.Limits.Rate * int(muteTime/time.Millisecond) / 1000 / thinning
	for period, c := range []struct {
		came int
		want []netip.Addr
	}{
		{allowed + 1, []netip.Addr{late, loud}}, {0, []netip.Addr{loud, late}}, {allowed + 1, []netip.Addr{loud}}, {allowed, []netip.Addr{loud}}, {1, nil},
	} {
		for range c.came {
			u.isMuted(loud)
		}
		now = now.Add(muteTime)
		if period == 1 {
			now = now.Add(muteTime / 2)
		}
		u.unmute(now)
		var got []netip.Addr
		for _, m := range u.muted {
			got = append(got, m.addr)
		}
		if period == 1 {
			slices.SortFunc(got, netip.Addr.Compare)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("period %d: %v are muted, not %v", period, got, c.want)
		}
	}
	u.mute(loud, now)
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write(make([]byte, 20))
	for range 5 {
		now = now.Add(muteTime)
		u.unmute(now)
	}
	if len(u.muted) != 1 {
		t.Error("let in while something waits")
	}
}

// slowZone takes its time, as on a busy machine.
type slowZone struct{ *zone }

func (z slowZone) Lookup(asker netip.Addr, name string) ([]netip.Addr, bool) {
	for end := time.Now().Add(200 * time.Microsecond); time.Now().Before(end); {
	}
	return z.zone.Lookup(asker, name)
}

// TestCrowded: an asker within its rate that asks more than can be read does not fill the buffer.
func TestCrowded(t *testing.T) {
	r, server := start(t, Config{Zone: slowZone{testZone()}, Limits: Limits{Rate: 1e6, Burst: 1e6}})
	stop := flood(t, "127.0.0.2", server, "web")
	defer stop()
	eventually(t, "no flood", func() bool { return r.asked.Load() > 200 })
	took := asks(t, "127.0.0.3", server, "web", 200)
	m := socketMemory(r.udp[0].raw)
	t.Logf("p50 %v p99 %v max %v; %d of %d bytes wait", took[100], took[198], took[199], m[0], m[1])
	if m.over(full) || took[198] > time.Second {
		t.Errorf("p99 %v, %d of %d bytes wait", took[198], m[0], m[1])
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
				before := r.Stats()
				for range 500 {
					c.Write(b)
				}
				eventually(t, "not read", func() bool { s := r.Stats(); return s.Asked+s.Dropped == before.Asked+before.Dropped+500 })
				if got := r.asked.Load() - before.Asked; mine && (got == 0 || got > 4*want) || !mine && got != want {
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
