// Package rpc holds what every gRPC server and client of the project has in
// common, so that services contain handlers and nothing else.
//
// Errors cross the wire by interceptors only:
//
//	handler returns           status                    caller gets
//	*wire.Error               of the error table, with  the same *wire.Error
//	                          ErrorInfo{code, "anteroom"}
//	                          and RetryInfo if it helps
//	context deadline, cancel  DeadlineExceeded, Canceled UNAVAILABLE
//	any other error, panic    Internal (logged once)    INTERNAL
//	(no connection, no answer)                          UNAVAILABLE
//
// Deadlines: a server gives 5 s to a call that carries none and cuts others at
// 30 s; a client gives 3 s. Order of a server's stop: NOT_SERVING first (callers'
// balancers turn away), then no new calls, then the end of those under way.
package rpc
