package test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
)

// chaosKind is a kind of container.
type chaosKind struct {
	name     string
	cmd      string // with the exit status that it ends with, by itself or when it is stopped
	settings []string
	stays    bool // it runs until it is ended
	returns  bool // and is started again when it is killed
	held     bool // by something of the keeper's, whose death may be its end
	retries  int  // it fails, and is started again so many times
	stop     [2]string
}

// waits is a program that says when it is ready to be stopped, and costs nothing while it runs.
const waits = `sh -c 'trap "exit %d" TERM; echo up; sleep 10000 & wait'`

// orderly is how most are stopped: the file and what is written there.
var orderly = [2]string{"stop", "1"}

var chaosKinds = []chaosKind{
	{name: "short", cmd: `sh -c 'exit %d'`},
	{name: "loop", cmd: waits, stays: true, stop: orderly},
	{name: "tty", cmd: waits, settings: []string{"tty", "1"}, stays: true, held: true, stop: orderly},
	{name: "init", cmd: waits, settings: []string{"init", "1"}, stays: true, stop: orderly},
	{name: "limited", cmd: waits, settings: []string{"memory.max", "67108864", "pids.max", "20", "rootfs.mode", "volatile"}, stays: true, stop: orderly},
	{name: "host", cmd: waits, settings: []string{"rootfs", "host"}, stays: true, stop: orderly},
	{name: "input", cmd: `sh -c 'echo up; cat; exit %d'`, settings: []string{"stdin.open", "1"}, stays: true, held: true, stop: [2]string{"stdin.open", "0"}},
	{name: "returning", cmd: waits, settings: []string{"restart", "on-failure:1000"}, stays: true, returns: true, stop: orderly},
	{name: "failing", cmd: `sh -c 'exit %d'`, settings: []string{"restart", "on-failure:2"}, retries: 2},
}

// chaosState is what a worker knows of a container.
type chaosState int

const (
	absent chaosState = iota
	idle              // made, and never started
	runs
	ended
)

// chaosSlot is one container of a worker, as it must be.
type chaosSlot struct {
	kind    *chaosKind
	state   chaosState
	code    int // that it ends with
	renamed int
	exit    string // the last one
	pid     string // of the present run
	deaths  int64  // of keepers, when that was known
	env     string
}

// chaosOp is one operation on a container.
type chaosOp struct {
	slot int
	verb string
	kind int // of the container, to create
	code int // an exit status, or any other number that the operation needs
}

// chaosVerbs says which operations there are in a state, each as often as it is likely.
var chaosVerbs = map[chaosState][]string{
	absent: {"create"},
	idle:   {"configure", "start", "start", "start", "rename", "inner", "remove"},
	runs:   {"configure", "exec", "exec", "look", "freeze", "stop", "stop", "kill", "rename", "inner"},
	ended:  {"configure", "start", "start", "look", "rename", "inner", "remove", "remove"},
}

// chaosSlots is how many containers each worker has at most.
const chaosSlots = 6

// chaosPlan makes up the operations of a worker, one after the other, from a seed and nothing else: what an operation leads to is known
// beforehand.
type chaosPlan struct {
	random *rand.Rand
	states [chaosSlots]chaosState
	kinds  [chaosSlots]int
}

func newChaosPlan(seed uint64, worker int) *chaosPlan {
	return &chaosPlan{random: rand.New(rand.NewPCG(seed, uint64(worker)))}
}

// next returns the next operation.
func (p *chaosPlan) next() chaosOp {
	op := chaosOp{slot: p.random.IntN(chaosSlots), kind: p.random.IntN(len(chaosKinds)), code: 1 + p.random.IntN(120)}
	verbs := chaosVerbs[p.states[op.slot]]
	op.verb = verbs[p.random.IntN(len(verbs))]
	kind := chaosKinds[p.kinds[op.slot]]
	switch op.verb {
	case "create":
		p.states[op.slot], p.kinds[op.slot] = idle, op.kind
	case "start":
		p.states[op.slot] = ended
		if kind.stays {
			p.states[op.slot] = runs
		}
	case "kill":
		if !kind.returns {
			p.states[op.slot] = ended
		}
	case "stop":
		p.states[op.slot] = ended
	case "remove":
		p.states[op.slot] = absent
	}
	return op
}

// digest sums up the first operations that a seed leads to.
func digest(seed uint64, workers int) string {
	sum := sha256.New()
	for w := range workers {
		p := newChaosPlan(seed, w)
		for range 1000 {
			fmt.Fprintln(sum, w, p.next())
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8])
}

// TestChaosPlan: one seed leads to the same operations each time, and another one to others.
func TestChaosPlan(t *testing.T) {
	if a, b := digest(7, chaosWorkers), digest(7, chaosWorkers); a != b {
		t.Errorf("one seed leads to %s and to %s", a, b)
	}
	if digest(7, chaosWorkers) == digest(8, chaosWorkers) {
		t.Error("another seed leads to the same operations")
	}
	verbs := map[string]int{}
	for p, n := newChaosPlan(7, 0), 0; n < 1000; n++ {
		verbs[p.next().verb]++
	}
	for verb := range chaosDoes {
		if verbs[verb] == 0 {
			t.Errorf("no %s among 1000 operations", verb)
		}
	}
}
