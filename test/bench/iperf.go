package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrfs/ctrfs/test"
)

// A stretch is a way that iperf3 sends on.
type stretch struct {
	name string
	send func() (bits float64, err error)
	got  []float64
}

// throughput measures how fast containers of a network send to each other and to the host, against the same made by hand with ip(8) in
// another network namespace: a bridge and two namespaces on it. They take turns, a second each.
func throughput(rounds int) (err error) {
	if _, err := exec.LookPath("iperf3"); err != nil {
		return fmt.Errorf("%w; run test/setup test", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil { // of the main thread, which everything below is started from
		return os.NewSyscallError("unshare", err)
	}
	away, err := byHand()
	defer func() { err = errors.Join(err, away()) }()
	if err != nil {
		return err
	}
	if err := tool("ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	fs, err := test.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	hand, stop, err := throughContainers(fs.Dir, "hand-", "/run/netns/"+netns("a"), "/run/netns/"+netns("b"), []string{"nsenter", "--net=/run/netns/" + netns("host"), "iperf3", "-s"})
	defer stop()
	if err != nil {
		return err
	}
	ours, halt, err := throughContainers(fs.Dir, "", "bridge", "bridge", []string{"iperf3", "-s"})
	defer halt()
	if err != nil {
		return err
	}
	time.Sleep(time.Second) // servers come up, stocks are filled
	for range rounds {
		for i := range hand {
			for _, s := range []*stretch{hand[i], ours[i]} {
				bits, err := s.send()
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				s.got = append(s.got, bits)
			}
		}
	}
	for i := range hand {
		a, b := middle(hand[i].got), middle(ours[i].got)
		fmt.Printf("%s: by hand %.1f Gbit/s, ctrfs %.1f: %.2f ×\n", hand[i].name, a/1e9, b/1e9, b/a)
	}
	return nil
}

func middle(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

func tool(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// netns is the name of a namespace that was made by hand.
func netns(what string) string { return fmt.Sprintf("ctrfs-bench-%d-%s", os.Getpid(), what) }

// byHand makes three namespaces, of which one has a bridge to which the others have a link each. Containers are in those two as they are
// in a network, so that only the networks differ, and not groups and filters.
func byHand() (away func() error, err error) {
	name := netns
	away = func() error {
		var errs []error
		for _, what := range []string{"a", "b", "host"} {
			if _, err := os.Stat("/run/netns/" + name(what)); err == nil {
				errs = append(errs, tool("ip", "netns", "del", name(what)))
			}
		}
		return errors.Join(errs...)
	}
	for _, what := range []string{"host", "a", "b"} {
		if err := tool("ip", "netns", "add", name(what)); err != nil {
			return away, err
		}
	}
	for _, script := range []string{"link add br0 type bridge", "address add 10.9.0.1/24 dev br0", "link set br0 up",
		"link add va type veth peer name eth0 netns " + name("a"), "link add vb type veth peer name eth0 netns " + name("b"), "link set va master br0 up", "link set vb master br0 up"} {
		if err := tool(append([]string{"ip", "-n", name("host")}, strings.Fields(script)...)...); err != nil {
			return away, err
		}
	}
	for what, address := range map[string]string{"a": "10.9.0.2/24", "b": "10.9.0.3/24"} {
		if err := errors.Join(tool("ip", "-n", name(what), "address", "add", address, "dev", "eth0"), tool("ip", "-n", name(what), "link", "set", "eth0", "up")); err != nil {
			return away, err
		}
	}
	return away, nil
}

func iperf(address string) []string { return []string{"iperf3", "-J", "-t", "1", "-c", address} }

// received is what iperf3 says of how much arrived.
func received(out []byte, err error) (float64, error) {
	var said struct {
		Error string
		End   struct {
			Sum struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if bad := json.Unmarshal(out, &said); bad != nil {
		return 0, errors.Join(err, bad)
	}
	if said.Error != "" {
		return 0, errors.New(said.Error)
	}
	return said.End.Sum.Bits, err
}

// handServer and handGateway are those of the namespace with the server and of the bridge, by hand.
const handServer, handGateway = "10.9.0.2", "10.9.0.1"

// throughContainers makes two containers with this machine's iperf3, one of which serves, and another server beside them.
func throughContainers(dir, prefix, serverNet, clientNet string, beside []string) (all []*stretch, stop func(), err error) {
	stop = func() {}
	for _, c := range []struct{ name, cmd, net string }{{"server", "iperf3 -s", serverNet}, {"client", "sleep 1000", clientNet}} {
		c.name = filepath.Join(dir, prefix+c.name)
		if err := os.Mkdir(c.name, 0o755); err != nil {
			return nil, stop, err
		}
		for _, s := range [][2]string{{"cmd", c.cmd}, {"net", c.net}, {"stop.timeout", "0"}, {"start", "1"}} {
			if err := put(c.name+"/"+s[0], s[1]+"\n"); err != nil {
				return nil, stop, reason(c.name, err)
			}
		}
	}
	server, gateway := handServer, handGateway
	if prefix == "" {
		if server, gateway, err = addresses(dir); err != nil {
			return nil, stop, err
		}
	}
	host := exec.Command(beside[0], beside[1:]...)
	if err := host.Start(); err != nil {
		return nil, stop, err
	}
	stop = func() { host.Process.Kill(); host.Wait() }
	to := func(address string) func() (float64, error) {
		return func() (float64, error) { return sent(dir+"/"+prefix+"client/exec/iperf", iperf(address)) }
	}
	return []*stretch{{name: "container to container", send: to(server)}, {name: "container to host", send: to(gateway)}}, stop, nil
}

// addresses are those of the container server and of the bridge, in the network that is always there.
func addresses(dir string) (server, gateway string, err error) {
	members, err := os.ReadFile(dir + "/networks/bridge/members")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(members)) {
		if fields := strings.Fields(line); fields[0] == "server" {
			server = fields[1]
		}
	}
	text, err := os.ReadFile(dir + "/networks/bridge/gateway")
	gateway, _, _ = strings.Cut(string(text), "\n")
	return server, gateway, err
}

// sent has a container send.
func sent(x string, argv []string) (float64, error) {
	if err := os.Mkdir(x, 0o755); err != nil {
		return 0, err
	}
	if err := errors.Join(put(x+"/cmd", strings.Join(argv, " ")+"\n"), put(x+"/start", "1\n")); err != nil {
		return 0, reason(x, err)
	}
	if _, err := get(x + "/wait"); err != nil {
		return 0, err
	}
	out, err := os.ReadFile(x + "/log")
	bits, err := received(out, err)
	return bits, errors.Join(err, os.Remove(x))
}
