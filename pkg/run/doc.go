// Package run starts and ends a process: logging, signals, the order of shutdown, and the
// admin listener.
//
// Components are stopped one at a time, in the reverse order of Add: senders before
// receivers. A component may use everything that was added before it until its own run
// function has returned. A room service adds
//
//  1. the admin listener, which answers until the last moment
//  2. what watches Redis, and the reaper
//  3. the gRPC server
//
// On SIGTERM, the gRPC server finishes the calls in progress and ends, then the reaper, then
// the admin listener. A second signal ends the process at once.
package run
