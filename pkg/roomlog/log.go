package roomlog

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/anteroom-chat/anteroom/pkg/pipeline"
	"github.com/anteroom-chat/anteroom/pkg/redisdb"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

var (
	// BeginLua is the beginning of every script: limits, and the time.
	BeginLua = limitsLua + clockLua

	//go:embed lua/clock.lua
	clockLua string
	// EntryLua defines entry(), which appends to a room's log. A script that calls it begins
	// with BeginLua and EntryLua.
	//
	//go:embed lua/entry.lua
	EntryLua string
	//go:embed lua/message.lua
	messageLua string
	//go:embed lua/read.lua
	readLua string

	messageScript = pipeline.NewScript(BeginLua+EntryLua, messageLua)
	readScript    = redis.NewScript(BeginLua + readLua)
)

// limitsLua tells the scripts the limits of package wire. The ages are numbers of ms. LOG_ENTRIES
// and KEY_LIFE are texts, since calls take them. KEY_LIFE is the time in s after which Redis drops
// a key of which nothing is heard: an hour more than any room may be empty.
var limitsLua = fmt.Sprintf("local LOG_AGE, LOG_ENTRIES, KEY_LIFE, ID_AGE = %d, '%d', '%d', %d\n",
	wire.HistoryAge.Milliseconds(), wire.HistoryEntries, wire.MaxTimeoutSeconds+3600, wire.MessageIDAge.Milliseconds())

// Kind says what is published on a room's channel.
type Kind byte

// The kinds of entries and notices, each with the content of its data.
const (
	KindMessage Kind = 'm' // entry: a MESSAGE frame
	KindJoined  Kind = 'j' // entry: a MEMBER_JOINED frame
	KindLeft    Kind = 'l' // entry: a MEMBER_LEFT frame

	KindReplaced  Kind = 'r' // notice: id of the session whose seat was taken over
	KindRemoved   Kind = 'x' // notice: id of the session that was taken out of the room
	KindGivenUp   Kind = 'g' // notice: id of the session whose seat was given up by a caller other than its gateway
	KindDeleted   Kind = 'd' // notice: the room was deleted; no data
	KindOccupancy Kind = 'o' // notice: number of occupied seats, if presence is count
)

// Entry is one position of the log.
type Entry struct {
	Seq   int64
	Frame []byte // the JSON that members receive
}

// Event is an entry or a notice received on a room's channel.
type Event struct {
	Kind  Kind
	Epoch string
	Seq   int64  // of an entry; 0 for notices
	Data  []byte // see Kind; shared between readers, so it must not be changed
}

// ParseEvent parses a message published on a room's channel.
func ParseEvent(payload string) (Event, error) {
	kind, rest, ok1 := strings.Cut(payload, " ")
	epoch, rest, ok2 := strings.Cut(rest, " ")
	number, data, ok3 := strings.Cut(rest, " ")
	seq, err := strconv.ParseInt(number, 10, 64)
	if !ok1 || !ok2 || !ok3 || len(kind) != 1 || epoch == "" || err != nil || seq < 0 {
		return Event{}, errors.New("roomlog: not an event")
	}
	return Event{Kind: Kind(kind[0]), Epoch: epoch, Seq: seq, Data: []byte(data)}, nil
}

// Range is the result of reading the log.
type Range struct {
	Epoch    string
	Last     int64   // seq of the room's newest entry
	Occupied int     // seats occupied at the moment of the read
	Entries  []Entry // without a hole; they begin later than requested if history does
	More     bool    // the entries end earlier than requested because the page was full
}

// Read returns the entries first…last of a room's log (up to the newest if last is 0), as far
// as history reaches. bytes limits the total size of the frames; 0 means no limit. The entry
// that reaches the limit is still returned, so the limit never makes the result empty. Read
// fails with ROOM_NOT_FOUND if there is no such room, and with UNAVAILABLE if Redis is out of
// reach.
func Read(ctx context.Context, rdb redis.Scripter, layout Layout, roomID string, first, last int64, bytes int) (Range, error) {
	k := layout.Keys(roomID)
	answer, err := readScript.Run(ctx, rdb, []string{k.Room(), k.Log(), k.Sessions()}, first, last, bytes).Slice()
	if err != nil {
		return Range{}, redisdb.Fault("read log", err)
	}
	if len(answer) == 0 {
		return Range{}, wire.Errorf(wire.RoomNotFound, "there is no room %q", roomID)
	}
	r := Range{Epoch: answer[0].(string), Last: answer[1].(int64), Occupied: int(answer[2].(int64))}
	for i := 3; i+1 < len(answer); i += 2 {
		id, _, _ := strings.Cut(answer[i].(string), "-")
		seq, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return Range{}, fmt.Errorf("read log of %s: entry id %q: %w", roomID, answer[i], err)
		}
		r.Entries = append(r.Entries, Entry{Seq: seq, Frame: []byte(answer[i+1].(string))})
	}
	if last == 0 || last > r.Last {
		last = r.Last
	}
	r.More = bytes > 0 && len(r.Entries) > 0 && r.Entries[len(r.Entries)-1].Seq < last
	return r, nil
}
