// Package run starts and ends a process: logging, signals, the order of a stop,
// and the admin listener.
//
// The order of a stop is the reverse of the order of Add, one component at a time:
// senders before receivers. A component may use everything that was added before
// it, until its own Run has returned. A gateway adds
//
//  1. the admin listener: it answers until the last moment
//  2. the hub, which reads Redis and writes to the sockets
//  3. the HTTP server, whose requests and sessions need all of that
//
// and on SIGTERM the HTTP server drains first, then the hub ends, then the admin
// listener. A second signal ends the process at once.
package run
