package gateway_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// Sessions of the Go client, as users have it, are cut, drained and slow. They come back, and
// each member sees each message once and in order.
func TestSessionsOfTheGoClientComeBackAcrossGateways(t *testing.T) {
	both(t, shape{gateways: 3, rooms: 2, configure: unlimited}, func(t *testing.T, c *cluster) {
		roomID := c.room(roomSpec{Capacity: 10})
		const members, rounds = 4, 6
		var all sync.WaitGroup
		for m := range members {
			_, token := c.user(fmt.Sprint("member ", m))
			var clients []*client.Client
			for _, n := range c.nodes {
				clients = append(clients, n.client())
			}
			all.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				var after *wire.Position
				for round := range rounds {
					s, err := clients[(m+round)%len(clients)].Join(ctx, client.JoinOptions{RoomID: roomID, Identity: token, After: after})
					if err != nil {
						t.Errorf("member %d, round %d: %v", m, round, err)
						return
					}
					if j := s.Joined(); after != nil && !j.Recovered {
						t.Errorf("member %d, round %d: not recovered", m, round)
					}
					id := fmt.Sprintf("%d/%d", m, round)
					if err := s.Send(ctx, id, id); err != nil {
						t.Errorf("member %d, round %d: %v", m, round, err)
						return
					}
					last := s.Position().Seq
					for {
						f, err := s.Receive(ctx)
						if err != nil || f.Type == wire.TypeGap || f.Seq != last+1 {
							t.Errorf("member %d, round %d: got %s, %v behind %d", m, round, show(f), err, last)
							return
						}
						last = f.Seq
						if f.ID == id {
							break
						}
					}
					pos := s.Position()
					after = &pos
					if round < rounds-1 {
						s.Abort()
					} else if err := s.Leave(ctx); err != nil {
						t.Errorf("member %d: %v", m, err)
					}
				}
			})
		}
		all.Wait()
		c.gone(roomID)
	})
}
