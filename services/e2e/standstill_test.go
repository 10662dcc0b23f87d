package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/services/e2e/cluster"
)

// While the gateway stands still, more is said than may wait for a member. Still no member
// is a slow reader.
func TestAGatewayThatStoodStillClosesNobodyWhoReads(t *testing.T) {
	const (
		members  = 10
		messages = 800
		bytes    = 1200
	)
	v := start(t, cluster.Options{Gateways: 2, Settings: []string{"MESSAGE_RATE=0"}})
	room := v.room(t, client.RoomSpec{Capacity: members + 1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	come := make(chan error, members+1)
	follow := func(s *client.Session) {
		for said := 0; said < messages; {
			f, err := s.Receive(ctx)
			if err != nil {
				come <- err
				return
			}
			if f.Type == "MESSAGE" {
				said++
			}
		}
		come <- nil
	}
	for range members {
		go follow(v.join(t, v.Gateways[1].URL(), room.RoomID, v.identity(t, "")))
	}
	speaker := v.join(t, v.Gateways[0].URL(), room.RoomID, v.identity(t, ""))

	must(t, v.Gateways[1].Pause())
	go follow(speaker)
	for range messages {
		must(t, speaker.Send(ctx, "", strings.Repeat("x", bytes)))
	}
	must(t, <-come) // the speaker has them
	must(t, v.Gateways[1].Resume())
	for range members {
		must(t, <-come)
	}
}
