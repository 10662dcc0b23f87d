package sim

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/anteroom-chat/anteroom/pkg/wire"
	roomv1 "github.com/anteroom-chat/anteroom/proto/room/v1"
)

const (
	burstPart   = 64                    // messages that the application publishes at the same time
	memberBurst = 40                    // messages that a member may send at once,
	memberEvery = 55 * time.Millisecond // and the time between those after them: MessageRate is 20
)

// burst sends many messages. A member of the room sends them if the node is odd and the user is
// one, and otherwise the application does.
func (u *user) burst(ctx context.Context, s Step) error {
	if u.w.crowded(s.Room) {
		u.w.reach(crowdRests)
	}
	if t := u.tab(s.Room); t != nil && s.Node%2 == 1 {
		for i := range s.Messages {
			if i >= memberBurst && !sleep(ctx, memberEvery) {
				return nil // the user has no patience for more
			}
			if err := u.say(ctx, t, s.Bytes); err != nil {
				return err
			}
		}
		return nil
	}
	parts := (s.Messages + burstPart - 1) / burstPart
	for left := s.Messages; left > 0; left -= burstPart {
		if err := u.w.publish(ctx, roomID(s.Room), min(left, burstPart), s.Bytes); err != nil {
			return err
		}
		if !sleep(ctx, s.For/time.Duration(parts)) {
			break
		}
	}
	return nil
}

// publish publishes some messages of the application at the same time, over a room service that
// is there. It returns the last error.
func (w *world) publish(ctx context.Context, room string, messages, bytes int) error {
	service := w.pickRooms()
	if service == nil {
		return wire.Errorf(wire.Unavailable, "no room service")
	}
	pad, err := structpb.NewValue(map[string]any{"pad": strings.Repeat("x", bytes)})
	if err != nil {
		return err
	}
	errs := make([]error, messages)
	var all sync.WaitGroup
	for i := range messages {
		all.Go(func() { _, errs[i] = service.srv.Publish(ctx, &roomv1.PublishRequest{RoomId: room, Body: pad}) })
	}
	all.Wait()
	for _, e := range errs {
		if e != nil {
			err = e
		}
	}
	return err
}
