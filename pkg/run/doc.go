// Package run starts and ends a process: logging, signals, the order of a stop,
// and the admin listener.
//
// The order of a stop is the reverse of the order of Add, one component at a time:
// senders before receivers. A component may use everything that was added before
// it, until its own Run has returned. A room service adds
//
//  1. the admin listener: it answers until the last moment
//  2. what watches Redis, and the reaper
//  3. the gRPC server
//
// and on SIGTERM the gRPC server carries out the calls under way and ends, then the
// reaper, then the admin listener. A second signal ends the process at once.
package run
