package rpc

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestAServerThatIsGoneIsLookedForTwiceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		conn, err := Dial("passthrough:///gone", ClientConfig{
			Dialer: func(context.Context, string) (net.Conn, error) {
				dials = append(dials, time.Now())
				return nil, errors.New("refused")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		conn.Connect()
		time.Sleep(time.Minute)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i := 1; i < len(dials); i++ {
			if gap := dials[i].Sub(dials[i-1]); gap > redialEvery*13/10 {
				t.Errorf("dialled after %v, and not again for %v", dials[i-1].Sub(dials[0]), gap)
			}
		}
		if len(dials) < 90 || len(dials) > 160 {
			t.Errorf("%d dials in a minute", len(dials))
		}
	})
}
