package firewall

import (
	"net"
	"testing"
	"time"
)

// flow is a client of UDP that keeps its socket, so that all its datagrams are of one flow.
type flow struct {
	*place
	c net.Conn
}

func (p *place) flow(to string) flow {
	p.t.Helper()
	f := flow{place: p}
	p.do(func() {
		c, err := net.Dial("udp", to)
		p.must(err)
		f.c = c
	})
	p.t.Cleanup(func() { f.c.Close() })
	return f
}

// ask returns the answer, or "nothing".
func (f flow) ask() string {
	b := make([]byte, 100)
	for range 3 { // an error of the datagram before may come first
		f.c.Write([]byte("who?"))
		f.c.SetReadDeadline(time.Now().Add(2 * never))
		if n, err := f.c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	return "nothing"
}

func (f flow) expect(when, want string) {
	f.t.Helper()
	if got := f.ask(); got != want {
		f.t.Errorf("%s: %q, wanted %q", when, got, want)
	}
}

// TestFlows: a client of UDP that asks all the time gets to a container that is published since, to another one that takes its port,
// and to none when it is published no more. Flows that a port has nothing to do with stay.
func TestFlows(t *testing.T) {
	for _, c := range []struct{ from, to, host, self, a1, a2, see string }{
		{"out1", "192.0.2.1:80", "0.0.0.0:80", "host 192.0.2.2", "10.1.0.2:80", "10.1.0.3:80", "192.0.2.2"},
		{"out1", "192.0.2.1:80", "192.0.2.1:80", "host 192.0.2.2", "10.1.0.2:80", "10.1.0.3:80", "192.0.2.2"},
		{"host", "127.0.0.1:80", "127.0.0.1:80", "host 127.0.0.1", "10.1.0.2:80", "10.1.0.3:80", "10.1.0.1"},
		{"host", "127.0.0.2:80", "127.0.0.2:80", "nothing", "10.1.0.2:80", "10.1.0.3:80", "10.1.0.1"}, // it answers as 127.0.0.1
		{"out1", "[2001:db8:1::1]:80", "[::]:80", "host 2001:db8:1::2", "[fd01::2]:80", "[fd01::3]:80", "2001:db8:1::2"},
	} {
		t.Run(c.from+" "+c.host, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tab := w.table()
			with := func(p []Port) { w.t.Helper(); w.must(tab.Apply(Wanted{Networks: networks(), Ports: p})) }
			with(nil)
			f, away := w.at[c.from].flow(c.to), w.at["a1"].flow("198.51.100.2:80")
			f.expect("before", c.self)
			away.expect("before", "out2 198.51.100.1")
			mine := w.flows("198.51.100.2", 80)
			unchanged := func(when string) {
				t.Helper()
				if now := w.flows("198.51.100.2", 80); now != mine || mine == "" {
					t.Errorf("%s: a flow to elsewhere was forgotten:\n%s\nbefore:\n%s", when, now, mine)
				}
			}
			with(append(publish(c.host, c.a1, "bra"), append(publish("0.0.0.0:9", "10.1.0.2:9", "bra"), publish("[::]:9", "[fd01::2]:9", "bra")...)...))
			unchanged("published")
			f.expect("published", "a1 "+c.see)
			with(publish(c.host, c.a1, "bra"))
			f.expect("published still", "a1 "+c.see)
			with(publish(c.host, c.a2, "bra"))
			f.expect("moved", "a2 "+c.see)
			with(nil)
			unchanged("published no more")
			f.expect("published no more", c.self)
			away.expect("in the end", "out2 198.51.100.1")
		})
	}
}

// TestFlowsOutliveTheServer: a server that is started anew, and publishes what was published, leaves flows that are right alone.
func TestFlowsOutliveTheServer(t *testing.T) {
	w := newWorld(t)
	wanted := Wanted{Networks: networks(), Ports: publish("0.0.0.0:80", "10.1.0.2:80", "bra")}
	w.must(w.table().Apply(wanted))
	w.at["out1"].flow("192.0.2.1:80").expect("before", "a1 192.0.2.2")
	before := w.flows("192.0.2.1", 80)
	w.must(w.table().Apply(wanted))
	if now := w.flows("192.0.2.1", 80); now != before || before == "" {
		t.Errorf("flows are\n%s\nbefore:\n%s", now, before)
	}
}

// TestConnectionsGoOn: a connection of TCP goes on when its port is published no more.
func TestConnectionsGoOn(t *testing.T) {
	w := newWorld(t)
	tab := w.wantedTable()
	var l net.Listener
	w.at["a1"].do(func() {
		var err error
		l, err = net.Listen("tcp", ":81")
		w.must(err)
	})
	defer l.Close()
	w.must(tab.Apply(Wanted{Networks: networks(), Ports: publish("0.0.0.0:8181", "10.1.0.2:81", "bra")}))
	var c net.Conn
	w.at["out1"].do(func() {
		var err error
		c, err = net.DialTimeout("tcp", "192.0.2.1:8181", soon)
		w.must(err)
	})
	defer c.Close()
	s, err := l.Accept()
	w.must(err)
	defer s.Close()
	w.must(tab.Apply(Wanted{Networks: networks()}))
	c.Write([]byte("still here"))
	s.SetDeadline(time.Now().Add(soon))
	b := make([]byte, 20)
	if n, err := s.Read(b); err != nil || string(b[:n]) != "still here" {
		t.Errorf("got %q (%v)", b[:n], err)
	}
	if got := w.at["out1"].ask("tcp", "192.0.2.1:8181", soon); got != "refused" {
		t.Errorf("a new one: %s", got)
	}
}

// FuzzParseFlow: whatever the kernel says, it is a flow or it is not.
func FuzzParseFlow(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0})
	f.Add([]byte{2, 0, 0, 0, 52, 0, 1, 128, 20, 0, 1, 128, 8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 10, 0, 0, 2, 28, 0, 2, 128, 5, 0, 1, 0, 17, 0, 0, 0,
		6, 0, 2, 0, 0, 1, 0, 0, 6, 0, 3, 0, 0, 2, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if flow, ok := parseFlow(data); ok && (!flow.asked.IsValid() || !flow.answers.IsValid()) {
			t.Errorf("%x is %+v", data, flow)
		}
	})
}

// BenchmarkForget is a port of UDP published and unpublished, while there are ten thousand flows.
func BenchmarkForget(b *testing.B) {
	w := newHost(b)
	tab := w.table()
	w.must(tab.Apply(Wanted{Networks: networks()}))
	w.do(func() {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		w.must(err)
		defer c.Close()
		for i := range 10000 {
			c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, byte(i>>8), byte(i)), Port: 2000})
		}
	})
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		w.must(tab.Apply(Wanted{Networks: networks(), Ports: publish("0.0.0.0:53", "10.1.0.2:53", "bra")[1:]}))
		w.must(tab.Apply(Wanted{Networks: networks()}))
		took = append(took, time.Since(start))
	}
	reportMedian(b, took)
}
