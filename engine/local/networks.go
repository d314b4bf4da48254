package local

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ctrfs/ctrfs/engine"
	"github.com/ctrfs/ctrfs/engine/crash"
	"github.com/ctrfs/ctrfs/netns"
	"github.com/ctrfs/ctrfs/netns/firewall"
)

// networks are the entries of networks/, and what this machine has for them: a bridge each, from the first container that needs
// it to the unmount, one table of the firewall for all, and a resolver each.
//
// Locks, outermost first: a network's lift, networks.mu, Engine.mu, a container's mu, networks.fire, a network's mu.
type networks struct {
	e        *Engine
	host     *netns.Host
	table    *firewall.Table
	instance string
	end      context.CancelFunc // of what watches the machine
	watching sync.WaitGroup
	lifting  background // of networks that a container is going to need, and of what is slow to take away

	mu  sync.Mutex                          // one network comes or goes at a time, and no container enters one meanwhile
	all atomic.Pointer[map[string]*network] // replaced under mu, never changed

	fire      sync.Mutex             // one change of the table at a time
	published map[string][]published // guarded by fire; the ports of each container, by its id
	applied   bool                   // guarded by fire; there is a table

	stale bool     // guarded by fire; the table has ports that are not published any more
	ended sync.Map // the ids of containers that have stopped, and whose ports may not be closed yet

	guarded4, guarded6 []string // guarded by fire; links that forward for networks only
}

// network is one of them. It implements [engine.Network].
type network struct {
	in     *networks
	name   string // immutable
	serial string // immutable

	generation atomic.Uint64
	zone       zone // the names in it

	lift sync.Mutex // held while it is brought up or taken down

	mu       sync.Mutex
	rec      netRecord             // guarded by mu
	failure  string                // guarded by mu
	changed  time.Time             // guarded by mu
	removed  bool                  // guarded by mu
	leases   map[netip.Addr]string // guarded by mu; the ids of those who have them, or [inStock]
	last     map[bool]netip.Addr   // guarded by mu; the address given last, of IPv4 and not
	link     string                // guarded by mu; empty while it is down
	index    int                   // guarded by mu; of the bridge that link names
	stock    *stock                // guarded by mu; nil while it is down
	resolver interface{ Close() error }
}

// netRecord is what is kept of a network.
type netRecord struct {
	Config  engine.NetworkConfig    `json:"config"`
	Owner   engine.Owner            `json:"owner"`
	Owners  map[string]engine.Owner `json:"owners,omitempty"`
	Created time.Time               `json:"created"`
}

// networksDir is the directory of their records in the state directory.
const networksDir = "networks"

// networkRecord ends the name of a record, so that none is the name of another one's next version: a network may be called blue.new.
const networkRecord = ".json"

// openNetworks reads the records. The network that is always there is made when it is not.
func (e *Engine) openNetworks(instance string) error {
	host, err := netns.OpenHost()
	if err != nil {
		return err
	}
	s := &networks{e: e, host: host, table: firewall.Open("ctrfs-" + instance), instance: instance, published: map[string][]published{}}
	e.networks = s
	all := map[string]*network{}
	s.all.Store(&all)
	dir := filepath.Join(e.store.dir, networksDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	crash.Point("make the directory of networks")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, x := range entries {
		name, whole := strings.CutSuffix(x.Name(), networkRecord)
		if !whole || engine.ValidateNetworkName(name) != nil {
			continue
		}
		var rec netRecord
		text, err := os.ReadFile(filepath.Join(dir, x.Name()))
		if err == nil {
			err = json.Unmarshal(text, &rec)
		}
		if err != nil {
			e.log.Error("a network's record cannot be read; it is left alone", "network", name, "err", err)
			continue
		}
		all[name] = s.newNetwork(name, rec)
	}
	if all[engine.DefaultNetwork] == nil {
		n, err := s.create(engine.DefaultNetwork, engine.Owner{Mode: 0o755})
		if err != nil {
			e.log.Warn("the network that is always there has no subnet yet", "err", err)
			n = s.newNetwork(engine.DefaultNetwork, netRecord{Config: engine.NewNetworkConfig(), Owner: engine.Owner{Mode: 0o755}})
		}
		all[engine.DefaultNetwork] = n
	}
	return nil
}

// put makes a network one of all, or takes it away. s.mu is held.
func (s *networks) put(name string, n *network) {
	next := maps.Clone(*s.all.Load())
	if next[name] = n; n == nil {
		delete(next, name)
	}
	s.all.Store(&next)
}

func (s *networks) newNetwork(name string, rec netRecord) *network {
	n := &network{in: s, name: name, serial: "network:" + name + ":" + rec.Created.Format(time.RFC3339Nano), rec: rec, changed: time.Now(),
		leases: map[netip.Addr]string{}, last: map[bool]netip.Addr{}}
	n.zone.n = n
	return n
}

// create makes a network on subnets that are free. s.mu is held, or nobody knows s yet.
func (s *networks) create(name string, owner engine.Owner) (*network, error) {
	rec := netRecord{Config: engine.NewNetworkConfig(), Owner: owner, Created: time.Now()}
	n := s.newNetwork(name, rec)
	if err := n.chooseSubnets(&n.rec.Config); err != nil {
		return nil, err
	}
	return n, n.save(&n.rec)
}

func (n *network) file() string {
	return filepath.Join(n.in.e.store.dir, networksDir, n.name+networkRecord)
}

// save puts a record on disk.
func (n *network) save(rec *netRecord) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return n.in.e.store.write(n.file(), append(text, '\n'))
}

// Networks implements [engine.Networks].
func (e *Engine) Networks() []engine.Network {
	all := *e.networks.all.Load()
	out := make([]engine.Network, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name])
	}
	return out
}

// Network implements [engine.Networks].
func (e *Engine) Network(name string) (engine.Network, bool) {
	n := e.networks.find(name)
	return n, n != nil
}

func (s *networks) find(name string) *network { return (*s.all.Load())[name] }

// list is all of them, in no order.
func (s *networks) list() []*network { return slices.Collect(maps.Values(*s.all.Load())) }

// CreateNetwork implements [engine.Networks].
func (e *Engine) CreateNetwork(by engine.Caller, name string, owner engine.Owner) (engine.Network, error) {
	if err := rootOnly(by, "mkdir", "networks/"+name); err != nil {
		return nil, err
	}
	if err := engine.ValidateNetworkName(name); err != nil {
		return nil, err
	}
	s := e.networks
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(name) != nil {
		return nil, &engine.Error{Op: "mkdir", File: "networks/" + name, Errno: syscall.EEXIST}
	}
	n, err := s.create(name, owner)
	if err != nil {
		return nil, &engine.Error{Op: "mkdir", File: "networks/" + name, Errno: engine.Errno(err), Err: err}
	}
	s.put(name, n)
	return n, nil
}

// RemoveNetwork implements [engine.Networks].
func (e *Engine) RemoveNetwork(by engine.Caller, en engine.Network) error {
	n, ok := en.(*network)
	if !ok {
		return syscall.EINVAL
	}
	file := "networks/" + n.name
	if err := rootOnly(by, "rmdir", file); err != nil {
		return err
	}
	busy := func(why, cure string) error {
		return &engine.Error{Op: "rmdir", File: file, Errno: syscall.EBUSY, Why: why, Cure: cure}
	}
	if n.name == engine.DefaultNetwork {
		return busy("it is always there", "leave it: without containers in it, it costs nothing")
	}
	n.lift.Lock()
	defer n.lift.Unlock()
	s := n.in
	s.mu.Lock()
	if members := n.Members(); len(members) > 0 { // none can come while s.mu is held: see [networks.admit]
		s.mu.Unlock()
		return busy(members[0].Path+" has it as its net", "remove those containers, or write another net, first; see members")
	}
	n.mu.Lock()
	gone := n.removed
	n.removed = true
	n.mu.Unlock()
	if gone {
		s.mu.Unlock()
		return &engine.Error{Op: "rmdir", File: file, Errno: syscall.ENOENT}
	}
	err := os.Remove(n.file())
	crash.Point("remove the record of a network")
	if err != nil {
		n.mu.Lock()
		n.removed = false
		n.mu.Unlock()
		s.mu.Unlock()
		return &engine.Error{Op: "rmdir", File: file, Errno: engine.Errno(err), Err: err}
	}
	e.store.touch(filepath.Dir(n.file()))
	s.put(n.name, nil)
	s.mu.Unlock()
	return n.down()
}

// View implements [engine.Network].
func (n *network) View() *engine.NetworkView {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &engine.NetworkView{Serial: n.serial, Name: n.name, Config: n.rec.Config, Link: n.link, Failure: n.failure, Changed: n.changed}
}

// Generation implements [engine.Network].
func (n *network) Generation() uint64 { return n.generation.Load() }

// touched notes a change. n.mu is held.
func (n *network) touched() {
	n.generation.Add(1)
	n.changed = time.Now()
}

// Owner implements [engine.Network].
func (n *network) Owner(file string) (engine.Owner, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return ownerIn(n.rec.Owner, n.rec.Owners, file)
}

// SetOwner implements [engine.Network].
func (n *network) SetOwner(file string, o engine.Owner) error {
	n.lift.Lock()
	defer n.lift.Unlock()
	return n.amend(func(rec *netRecord) { setOwner(&rec.Owner, &rec.Owners, file, o) })
}

// amend changes the record: on disk first, then in memory. n.lift is held.
func (n *network) amend(change func(*netRecord)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.removed {
		return syscall.ENOENT
	}
	next := n.rec
	change(&next)
	if err := n.save(&next); err != nil {
		return err
	}
	n.rec = next
	n.touched()
	return nil
}

// Fail implements [engine.Network].
func (n *network) Fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failure = err.Error()
	n.touched()
}

// Members implements [engine.Network].
func (n *network) Members() (out []engine.Member) {
	e := n.in.e
	e.mu.RLock()
	all := slices.Collect(maps.Values(e.byID))
	e.mu.RUnlock()
	for _, c := range all {
		if slices.ContainsFunc(c.View().Config.Networks(), func(a engine.Attachment) bool { return a.Network == n.name }) {
			c.mu.Lock()
			out = append(out, engine.Member{Path: c.path, Addresses: c.rec.Leases[n.name]})
			c.mu.Unlock()
		}
	}
	slices.SortFunc(out, func(a, b engine.Member) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// wires are those of the containers that are in the network at this moment.
func (n *network) wires() (all []wire) {
	e := n.in.e
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		c.mu.Lock()
		for _, w := range c.wires {
			if w.n == n {
				all = append(all, w)
			}
		}
		c.mu.Unlock()
	}
	return all
}

// wired names a container that is in the network at this moment; "" is nobody.
func (n *network) wired() string {
	e := n.in.e
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, c := range e.byID {
		c.mu.Lock()
		in, path := slices.ContainsFunc(c.wires, func(w wire) bool { return w.n == n }), c.path
		c.mu.Unlock()
		if in {
			return path
		}
	}
	return ""
}

// Update implements [engine.Network].
func (n *network) Update(by engine.Caller, file string, live bool, change func(*engine.NetworkConfig) error) error {
	if err := rootOnly(by, "write", "networks/"+n.name+"/"+file); err != nil {
		return err
	}
	n.lift.Lock()
	defer n.lift.Unlock()
	n.mu.Lock()
	next := n.rec.Config
	n.mu.Unlock()
	old := next
	if err := change(&next); err != nil {
		return err
	}
	if err := next.Validate(); err != nil {
		return err
	}
	if who := n.wired(); who != "" && !live {
		return &engine.Error{Op: "write", File: file, Errno: syscall.EBUSY, Why: who + " runs in it", Cure: "stop the containers in members first"}
	}
	if len(next.Subnets) == 0 {
		if err := n.chooseSubnets(&next); err != nil {
			return err
		}
	} else if !slices.Equal(next.Subnets, old.Subnets) {
		if err := n.in.overlaps(n, next.Subnets); err != nil {
			return err
		}
	}
	if err := n.amend(func(rec *netRecord) { rec.Config = next }); err != nil {
		return err
	}
	n.mu.Lock()
	n.failure = ""
	n.mu.Unlock()
	if live {
		return n.in.refire()
	}
	return n.down() // the next container finds it as it is now
}

// admit checks that the networks of a configuration exist, which they do until release, and begins to bring up those that are new.
func (s *networks) admit(old, next *engine.Config) (release func(), err error) {
	if slices.EqualFunc(old.Networks(), next.Networks(), func(a, b engine.Attachment) bool { return a.Network == b.Network }) {
		return func() {}, nil
	}
	var fresh []*network
	s.mu.Lock()
	for _, a := range next.Networks() {
		n := s.find(a.Network)
		if n == nil {
			s.mu.Unlock()
			return nil, &engine.Error{Op: "write", File: "net", Value: a.Network, Errno: syscall.ENOENT, Why: "there is no such network",
				Cure: "mkdir networks/" + a.Network + ", or name another one"}
		}
		if !slices.ContainsFunc(old.Networks(), func(o engine.Attachment) bool { return o.Network == a.Network }) {
			fresh = append(fresh, n)
		}
	}
	return func() {
		s.mu.Unlock()
		for _, n := range fresh {
			n.touch()
			s.lifting.Go(func() {
				if err := n.up(); err != nil { // the start says so, too
					s.e.log.Warn("a network does not come up", "network", n.name, "err", err)
				}
			})
		}
	}, nil
}
