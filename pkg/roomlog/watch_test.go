package roomlog_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/roomlog"
)

// Otherwise a process with another layout could start on an emptied Redis beside this one,
// and both would admit users to the same room.
func TestWhatTheClusterAgreedOnOutlivesTheDataOfRedis(t *testing.T) {
	each(t, func(f *fixture) {
		f.must(roomlog.Agree(f.ctx, f.rdb, f.layout))
		ended := make(chan error, 1)
		ctx, stop := context.WithCancel(f.ctx)
		defer stop()
		go func() { ended <- roomlog.Watch(ctx, f.rdb, f.layout) }()
		f.must(f.rdb.Del(f.ctx, roomlog.ClusterKey).Err())
		f.eventually("recorded anew", func() bool { return f.rdb.HGet(f.ctx, roomlog.ClusterKey, "partitions").Val() == "4, keys 2" })
		stop()
		f.must(<-ended)

		go func() { ended <- roomlog.Watch(f.ctx, f.rdb, f.layout) }()
		f.must(f.rdb.HSet(f.ctx, roomlog.ClusterKey, "partitions", "8, keys 2").Err())
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "8 partitions") {
				f.Errorf("ended with %v", err)
			}
		case <-time.After(patience):
			f.Error("goes on though the cluster has another layout")
		}
	})
}
