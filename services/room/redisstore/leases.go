package redisstore

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// renewChunk limits the sessions in one call of the script, so that it does not block Redis
// for more than about a millisecond.
const renewChunk = 500

// chunk is the part of a renewal that one call of the script carries out.
type chunk struct {
	keys  []string // the partition's leases
	args  []any    // duration of a lease, latest end, names of leases
	index []int    // by position in args: the session's index in the request, or -1
}

// Renew renews leases. It needs one round trip for all partitions, and another one if any
// leases are lost.
func (s *Store) Renew(ctx context.Context, leases []room.SessionRef, sent time.Time) (lost []room.Lost, sooner time.Duration, err error) {
	latest := ""
	if !sent.IsZero() {
		latest = millis(sent.Add(s.rules.Lease + room.SentWithin))
	}
	chunks := s.chunks(leases, latest)
	cmds := pipeline.RunAll(ctx, s.rdb, renewScript, len(chunks), func(i int) ([]string, []any) {
		return chunks[i].keys, chunks[i].args
	})
	var indices []int
	for i, cmd := range cmds {
		answer, err := cmd.Int64Slice()
		if err != nil {
			return nil, 0, redisdb.Fault("renew leases", err)
		}
		sooner = max(sooner, time.Duration(answer[0])*time.Millisecond)
		for _, p := range answer[1:] {
			indices = append(indices, chunks[i].index[p-1])
		}
	}
	lost, err = s.causes(ctx, leases, indices)
	return lost, sooner, err
}

func (s *Store) chunks(leases []room.SessionRef, latest string) []*chunk {
	open := make(map[int]*chunk) // by partition
	var all []*chunk
	for i, l := range leases {
		p := s.layout.Partition(l.RoomID)
		c := open[p]
		if c == nil || len(c.args) == 2+renewChunk {
			c = &chunk{
				keys: []string{roomlog.LeasesKey(p)},
				args: []any{s.rules.Lease.Milliseconds(), latest}, index: []int{-1, -1},
			}
			open[p] = c
			all = append(all, c)
		}
		c.args = append(c.args, roomlog.Lease(l.RoomID, l.Session))
		c.index = append(c.index, i)
	}
	return all
}

// causes finds out why sessions no longer hold a seat, which is rarely needed.
func (s *Store) causes(ctx context.Context, leases []room.SessionRef, lost []int) ([]room.Lost, error) {
	if len(lost) == 0 {
		return nil, nil
	}
	pipe := s.rdb.Pipeline()
	epoch := make([]*redis.StringCmd, len(lost))
	ended := make([]*redis.FloatSliceCmd, len(lost))
	for n, i := range lost {
		roomID, session := leases[i].RoomID, leases[i].Session
		epoch[n] = pipe.HGet(ctx, s.layout.Keys(roomID).Room(), "epoch")
		ended[n] = pipe.ZMScore(ctx, roomlog.SpentKey(s.layout.Partition(roomID)), "removed "+session, "replaced "+session)
	}
	pipeline.Exec(ctx, pipe)
	answer := make([]room.Lost, len(lost))
	for n, i := range lost {
		answer[n] = room.Lost{Index: i, Cause: room.LeaseEnded}
		// A missing room is a result. Any other error is no reason to report that the room is
		// gone. If a key of this room has a wrong type, the renewals of the others are valid
		// all the same.
		if err := cmp.Or(notNil(epoch[n].Err()), ended[n].Err()); err != nil {
			if err = redisdb.Fault("find out why a lease ended", err); wire.CodeOf(err) == wire.Unavailable {
				return nil, err
			}
			slog.Error("a key cannot be read", "room", leases[i].RoomID, "err", err)
			continue
		}
		switch at := ended[n].Val(); {
		case at[0] != 0: // even if the room was deleted with its last member
			answer[n].Cause = room.Removed
		case at[1] != 0:
			answer[n].Cause = room.Replaced
		case epoch[n].Val() == "" || leases[i].Epoch != "" && epoch[n].Val() != leases[i].Epoch:
			answer[n].Cause = room.RoomGone
		}
	}
	return answer, nil
}

func notNil(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// Due asks every partition for rooms that need a visit. If a partition fails, Due returns the
// visits of the others together with the error.
func (s *Store) Due(ctx context.Context) (visits []room.Visit, more bool, err error) {
	cmds := pipeline.RunAll(ctx, s.rdb, dueScript, s.layout.Partitions, func(p int) ([]string, []any) {
		return []string{roomlog.DueKey(p), roomlog.LeasesKey(p)}, nil
	})
	for _, cmd := range cmds {
		answer, fault := cmd.Slice()
		if fault != nil {
			err = redisdb.Fault("ask for due rooms", fault)
			continue
		}
		more = more || answer[0] != int64(0)
		for i := 1; i+1 < len(answer); i += 2 {
			roomID, _ := answer[i].(string)
			ended, _ := answer[i+1].(string)
			visits = append(visits, room.Visit{RoomID: roomID, Ended: strings.Fields(ended)})
		}
	}
	return visits, more, err
}

// Expire visits rooms.
func (s *Store) Expire(ctx context.Context, visits []room.Visit) (freed int, err error) {
	cmds := pipeline.RunAll(ctx, s.rdb, expireScript, len(visits), func(i int) ([]string, []any) {
		v := visits[i]
		return s.layout.Keys(v.RoomID).All(), []any{v.RoomID, strings.Join(v.Ended, " ")}
	})
	for _, cmd := range cmds {
		n, fault := cmd.Int()
		if fault != nil {
			err = redisdb.Fault("expire", fault)
		}
		freed += n
	}
	return freed, err
}
