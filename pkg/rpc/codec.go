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

// codec is protobuf's, but keeps to itself that a request cannot be read: gRPC would
// answer INTERNAL, a defect of ours, before any interceptor could say better.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// request is where a codec puts a request, or why there is none.
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

// withReadable is a service that answers BAD_REQUEST to requests that cannot be read.
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
