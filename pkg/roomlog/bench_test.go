package roomlog_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redistest"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Appends by 32 callers that each wait for their reply, and by one that does not wait.
func BenchmarkAppend(b *testing.B) {
	for _, wait := range []bool{true, false} {
		b.Run(fmt.Sprintf("wait=%v", wait), func(b *testing.B) {
			rdb := redistest.Client(b, redistest.Server(b).URL())
			layout := roomlog.Layout{Partitions: roomlog.DefaultPartitions}
			const rooms = 64
			for i := range rooms {
				k := layout.Keys(fmt.Sprint("r", i))
				rdb.HSet(b.Context(), k.Room(), "epoch", "e1")
				rdb.ZAdd(b.Context(), k.Leases(), redis.Z{Score: float64(time.Now().Add(time.Hour).UnixMilli()), Member: roomlog.Lease(fmt.Sprint("r", i), "s1")})
			}
			scripts := pipeline.New(rdb)
			defer scripts.Close()
			p := roomlog.NewPublisher(scripts, layout)
			tail := wire.MessageTail([]byte(`{"userId":"a"}`), "", []byte(`{"text":"hello, how are you today?"}`))
			next := make(chan int, 1024)
			go func() {
				for i := range b.N {
					next <- i
				}
				close(next)
			}()
			b.ResetTimer()
			if wait {
				b.SetParallelism(16)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						m := roomlog.Message{RoomID: fmt.Sprint("r", <-next%rooms), Epoch: "e1", Session: "s1", User: "a", Tail: tail}
						if _, err := p.PublishWait(b.Context(), m); err != nil {
							b.Fatal(err)
						}
					}
				})
				return
			}
			slots := make(chan struct{}, 2048)
			for i := range next {
				slots <- struct{}{}
				p.Publish(&roomlog.Message{
					RoomID: fmt.Sprint("r", i%rooms), Epoch: "e1", Session: "s1", User: "a", Tail: tail,
					Done: func(r roomlog.Result) {
						if r.Err != nil {
							b.Error(r.Err)
						}
						<-slots
					},
				})
			}
			for range cap(slots) {
				slots <- struct{}{}
			}
		})
	}
}
