// Package names is the resolver of a container network: it answers, on the network's gateway addresses, for the names and addresses
// of its containers, and asks the host's servers for everything else.
//
// # What is answered
//
// A name of the network ([Zone]) has its A and AAAA records, and no records of other types: NOERROR without an answer, so that
// getaddrinfo(3), which asks for both families at once, does not wait for the one that is not there. An address of the network has
// PTR records. Answers live [TTL] seconds. localhost is the asker itself (RFC 6761).
//
// All other names go to the servers of the host, in their order, unless the network is internal: there they do not exist. That is
// NXDOMAIN and not REFUSED: at REFUSED glibc tries again and then says "temporary failure", and musl waits until its time is up.
//
// A single label that is no name of the network, such as the name of a container that is stopped, goes only to servers at private
// addresses: a router or the server of a company may know it, as the user of the host is used to; a public server can not, and is not told.
// Questions about top-level domains themselves (NS, SOA, DS, DNSKEY) always go out. So that a name of the network is never tried
// below a domain of the host's first, the container's resolv.conf needs the option ndots:0, see [ResolvConf].
//
// Forwarded answers are not kept. The host's resolver keeps them already; a second store would have to be bounded and expired, would tell
// one container by its timing what another asks for, and one lie would be told to all.
//
// # Limits
//
// The package lives in the server that also serves the mount, and those who ask are not trusted. So everything is bounded, in total and
// for each asker ([Limits]):
//
//   - One goroutine reads each UDP socket, and answers for names of the network itself. At most half of the processors
//     do that at a time, for all networks together.
//   - Of an asker that exceeds its rate, or its share when there is more than can be read, the kernel drops all but every 64th datagram, by
//     a filter on the socket, so that they neither cost the server much nor fill the socket's buffer, until what comes through
//     says that it asks no more than it may.
//   - A forward, and a TCP connection, takes a slot, or the query is dropped. Nobody can have more slots than are left for others.
//   - Who is no member of the network (nothing in Reverse) shares one allotment with all others who are none: addresses are cheap.
//   - Every read, write and exchange has its deadline; sizes are bounded before anything is parsed.
//
// The network has to see to it that a container cannot ask in the name of another: a forged source address uses up the victim's allotment.
//
// # Goroutines and locks
//
// Two for each address (UDP, TCP), one for each forward in flight, one for each TCP connection. [Resolver.Close] ends them all.
// Resolver.mu is held for memory operations only; the Zone is never called with it.
package names
