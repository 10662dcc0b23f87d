package rpc

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto" // registers itself
	"google.golang.org/grpc/mem"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// codec is the protobuf codec, except that it does not report a request that cannot be
// decoded: gRPC would answer INTERNAL, which means a defect of ours, before any interceptor
// could return a better error.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// request receives a decoded request, or the error that decoding it caused.
type request struct {
	into any
	err  error
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*request); ok {
		r.err = c.CodecV2.Unmarshal(data, r.into)
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// withReadable returns a copy of the service that answers BAD_REQUEST to requests that cannot
// be decoded.
func withReadable(desc *grpc.ServiceDesc) *grpc.ServiceDesc {
	d := *desc
	d.Methods = slices.Clone(desc.Methods)
	for i, m := range d.Methods {
		d.Methods[i].Handler = func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			return m.Handler(srv, ctx, func(v any) error {
				r := request{into: v}
				if err := decode(&r); err != nil {
					return err
				}
				if r.err != nil {
					return fromWire(wire.Errorf(wire.BadRequest, "the request cannot be read: it is malformed, or its text is not UTF-8")).Err()
				}
				return nil
			}, intercept)
		}
	}
	return &d
}
