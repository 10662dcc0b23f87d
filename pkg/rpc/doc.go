// Package rpc has what all gRPC servers and clients of the project share, so that services
// contain only handlers.
//
// Only interceptors translate errors between the two sides:
//
//	handler returns           status                    caller gets
//	*wire.Error               of the error table, with  the same *wire.Error
//	                          ErrorInfo{code, "anteroom"}
//	                          and RetryInfo if it helps
//	context deadline, cancel  DeadlineExceeded, Canceled UNAVAILABLE
//	any other error, panic    Internal (logged once)    INTERNAL
//	(no connection, no answer)                          UNAVAILABLE
//
// Deadlines: a server gives 5 s to a call that has no deadline, and limits all others to
// 30 s. A client gives a call 3 s. A server stops in this order: it reports NOT_SERVING, so
// that callers' balancers turn to other servers; it takes no new calls; it waits for the
// calls in progress.
package rpc
