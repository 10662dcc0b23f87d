package redisstore

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/roomlog"
	"github.com/anteroom-chat/anteroom/pkg/wire"
	"github.com/anteroom-chat/anteroom/services/room"
)

// place is the position of a room in the list: newest first, and for equal times by id from z
// to a, as Redis orders equal scores in a reverse range.
type place struct {
	created int64 // µs
	id      string
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(b.created, a.created), cmp.Compare(b.id, a.id))
}

// token encodes the last place of a page as the page token, which parseToken decodes.
func (p place) token() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.created, 10) + "." + p.id))
}

func parseToken(token string) (place, error) {
	bad := wire.Errorf(wire.BadRequest, "pageToken is not one that was given out")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return place{}, bad
	}
	number, id, ok := strings.Cut(string(raw), ".")
	created, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || wire.CheckID("id", id) != nil {
		return place{}, bad
	}
	return place{created, id}, nil
}

// List merges the rooms of all partitions.
func (s *Store) List(ctx context.Context, size int, token string) ([]room.Room, string, error) {
	var after *place
	if token != "" {
		p, err := parseToken(token)
		if err != nil {
			return nil, "", err
		}
		after = &p
	}
	places, err := s.places(ctx, size, after)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(places) > size {
		places = places[:size]
		next = places[size-1].token()
	}
	rooms, err := s.describeAll(ctx, places)
	return rooms, next, err
}

// places returns the places that follow after (nil: from the newest), in order. It returns at
// least size+1 of them, if there are that many.
func (s *Store) places(ctx context.Context, size int, after *place) ([]place, error) {
	var places []place
	partitions := make([]int, s.layout.Partitions)
	for p := range partitions {
		partitions[p] = p
	}
	// Rooms made in the same µs as the last one of the previous page may be on earlier pages,
	// and no query can leave them out. If they filled the result, ask for what follows.
	count := size + 2 // the previous page's end, a page, and one to detect a next page
	for offset := 0; len(partitions) > 0; offset += count {
		found, err := s.newest(ctx, partitions, after, offset, count)
		if err != nil {
			return nil, err
		}
		var cut []int
		for i, some := range found {
			behind := slices.DeleteFunc(slices.Clone(some), func(p place) bool {
				return after != nil && comparePlaces(p, *after) <= 0
			})
			places = append(places, behind...)
			if len(some) == count && len(behind) <= size {
				cut = append(cut, partitions[i])
			}
		}
		partitions = cut
	}
	slices.SortFunc(places, comparePlaces)
	return places, nil
}

// newest reads rooms of partitions, newest first, from the µs of after on.
func (s *Store) newest(ctx context.Context, partitions []int, after *place, offset, count int) ([][]place, error) {
	newest := "+inf"
	if after != nil {
		newest = strconv.FormatInt(after.created, 10)
	}
	pipe := s.rdb.Pipeline()
	cmds := make([]*redis.ZSliceCmd, len(partitions))
	for i, p := range partitions {
		cmds[i] = pipe.ZRevRangeByScoreWithScores(ctx, roomlog.RoomsKey(p), &redis.ZRangeBy{
			Min: "-inf", Max: newest, Offset: int64(offset), Count: int64(count),
		})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisdb.Fault("list rooms", err)
	}
	found := make([][]place, len(cmds))
	for i, cmd := range cmds {
		for _, z := range cmd.Val() {
			id, _ := z.Member.(string)
			found[i] = append(found[i], place{int64(z.Score), id})
		}
	}
	return found, nil
}

// describeAll returns the rooms with their counts, read in one round trip. Rooms that have
// ended meanwhile are left out.
func (s *Store) describeAll(ctx context.Context, places []place) ([]room.Room, error) {
	cmds := pipeline.RunAll(ctx, s.rdb, getScript, len(places), func(i int) ([]string, []any) {
		return s.layout.Keys(places[i].id).All(), []any{places[i].id}
	})
	rooms := make([]room.Room, 0, len(places))
	for i, cmd := range cmds {
		answer, err := cmd.Slice()
		if err != nil {
			return nil, redisdb.Fault("list rooms", err)
		}
		status, _ := answer[0].(string)
		if err := refusal(status, places[i].id); errors.Is(err, &wire.Error{Code: wire.RoomNotFound}) {
			continue
		} else if err != nil {
			return nil, err
		}
		r, err := described(places[i].id, answer[1:])
		if err != nil {
			return nil, err
		}
		rooms = append(rooms, r)
	}
	return rooms, nil
}
