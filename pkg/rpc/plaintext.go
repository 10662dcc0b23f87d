package rpc

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/anteroom-chat/anteroom/pkg/rawtcp"
)

// plaintext is gRPC's own transport without TLS, over connections of rawtcp. gRPC dials and
// accepts, and sets TCP_USER_TIMEOUT, before it hands a connection over here: for one that is
// no *net.TCPConn by then it would do without that, and notice a host that has vanished 20 s
// later instead of 5.
type plaintext struct {
	credentials.TransportCredentials
}

func newPlaintext() plaintext { return plaintext{insecure.NewCredentials()} }

func (p plaintext) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return p.TransportCredentials.ClientHandshake(ctx, authority, rawtcp.Wrap(c))
}

func (p plaintext) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return p.TransportCredentials.ServerHandshake(rawtcp.Wrap(c))
}

func (plaintext) Clone() credentials.TransportCredentials { return newPlaintext() }
