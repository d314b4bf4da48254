package keeper

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// Service is how a service manager wants to hear of the service that it has started: sd_notify(3). The zero Service is none.
type Service struct {
	Notify   string        `json:"notify,omitempty"`   // its socket, as in NOTIFY_SOCKET
	Watchdog time.Duration `json:"watchdog,omitempty"` // how long it hears nothing before it acts; 0 for ever
}

// say sends one datagram. The module that does so binds its own end too, to an abstract name, which every process in the network
// namespace could write to.
func (s Service) say(text string) error {
	conn, err := net.Dial("unixgram", s.Notify)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(sayLimit))
	_, err = conn.Write([]byte(text))
	return err
}

// sayLimit is how long a service manager may take to make room for a word.
const sayLimit = time.Second

// watchdog is the state of telling a service manager that all is well.
type watchdog struct {
	service Service
	stop    chan struct{} // closed when another service is told
	heard   time.Time     // when a server last answered
	asked   bool          // and it has been asked since
}

// attend tells the service manager behind a request that the mount answers, and that the keeper is what to look after: the
// command that asked for the mount ends now.
func (k *Keeper) attend(s Service) {
	if s.Notify == "" {
		return
	}
	k.mu.Lock()
	if k.dog.stop != nil {
		close(k.dog.stop)
	}
	k.dog = watchdog{service: s, stop: make(chan struct{}), heard: time.Now()}
	stop := k.dog.stop
	k.mu.Unlock()
	if err := s.say(fmt.Sprintf("READY=1\nMAINPID=%d", os.Getpid())); err != nil {
		k.log.Error("the service manager does not hear that the mount answers", "socket", s.Notify, "err", err)
	}
	if s.Watchdog > 0 {
		go k.guard(s, stop)
	}
}

// guard tells the service manager now and then that all is well.
func (k *Keeper) guard(s Service, stop <-chan struct{}) {
	tick := time.NewTicker(max(s.Watchdog/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-k.done:
			return
		case <-tick.C:
		}
		if k.healthy(s.Watchdog / 2) {
			if err := s.say("WATCHDOG=1"); err != nil {
				k.log.Warn("the service manager does not hear that all is well", "socket", s.Notify, "err", err)
			}
		}
	}
}

// healthy asks the server whether it is there, and reports whether it answered the question before that one in time. One that did
// not is killed, and followed by another: whoever replaced the keeper would still find it in the way. A keeper without a server is
// well as long as nobody wants one.
func (k *Keeper) healthy(limit time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.server
	if s == nil {
		return !k.restarting
	}
	recently := time.Since(k.dog.heard) < limit
	if !recently && s.ready {
		k.log.Error("the server does not answer; killing it", "pid", s.pid, "since", k.dog.heard)
		k.signal(s, syscall.SIGKILL)
	}
	if !k.dog.asked { // one that does not read shall not find a heap of them
		k.dog.asked = true
		s.out.put(message{Kind: kindReady})
	}
	return recently
}

// answered takes a server's word that its mount answers.
func (k *Keeper) answered(s *server) {
	k.mu.Lock()
	s.ready = true
	k.dog.heard, k.dog.asked = time.Now(), false
	k.mu.Unlock()
	s.settle(nil)
}
