// Package roomlog keeps a room's ordered log in Redis. It appends and publishes in one step,
// reads ranges, and subscribes.
//
// An entry of the log is a frame ready to be sent to browsers. It is built once for the whole
// cluster. The sender provides the part that follows "time". A script in Redis puts type, seq
// and time in front of it, adds the frame to the room's stream and publishes it on the room's
// channel. Every gateway forwards the bytes unchanged.
//
// The log keeps the last 1,000 entries of a room, at most 10 minutes old. A published entry
// can be lost on its way, so the stream is authoritative: a reader that finds a hole between
// two seqs reads that range from the stream.
//
// On the channel, a short header precedes the frame:
//
//	<kind> SP <epoch> SP <seq> SP <data>
//
// Kinds with a seq are entries. The others are notices, which are in no log and have seq 0.
package roomlog

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// The number of partitions of a new cluster, and the largest number allowed.
const (
	DefaultPartitions = 64
	MaxPartitions     = 4096
)

// ClusterKey is a hash that records what all processes of a cluster must agree on.
const ClusterKey = "ar:cluster"

// Layout says how rooms are spread over Redis' keys. Every room belongs to one of Partitions
// partitions. All keys of a room, and the partition's index and due queue, carry the
// partition's hash tag, so that one call of a script touches one hash slot only, as a Redis
// Cluster would require. (A run that several calls share does not keep to that, see
// pipeline.Script.)
type Layout struct {
	Partitions int
}

// Check reports an error if the layout is not valid. The error names the setting.
func (l Layout) Check() error {
	if l.Partitions < 1 || l.Partitions > MaxPartitions {
		return fmt.Errorf("--partitions is %d, outside 1 to %d", l.Partitions, MaxPartitions)
	}
	return nil
}

// Partition returns the partition of a room, 0 to Partitions-1.
func (l Layout) Partition(roomID string) int {
	h := fnv.New32a()
	h.Write([]byte(roomID))
	return int(h.Sum32() % uint32(l.Partitions))
}

func tag(partition int) string { return "ar:{p" + strconv.Itoa(partition) + "}:" }

// RoomsKey is a sorted set: the partition's rooms by creation time in µs.
func RoomsKey(partition int) string { return tag(partition) + "rooms" }

// DueKey is a sorted set: the partition's rooms by the time, in ms, at which the reaper must
// visit them at the latest, because a permit may lapse, an empty room may end, or the room
// must be looked through.
func DueKey(partition int) string { return tag(partition) + "due" }

// LeasesKey is a sorted set: the partition's leases (Lease) by the time, in ms, at which they
// end. All leases of a partition share one set, so that one command renews all leases that a
// gateway has there, and one query finds those that have ended.
func LeasesKey(partition int) string { return tag(partition) + "leases" }

// Lease returns the name of a session's lease in LeasesKey. Room ids have no spaces.
func Lease(roomID, session string) string { return roomID + " " + session }

// SpentKey is a sorted set, by the time in ms at which it happened. It holds the partition's
// sessions that ended lately; for one that was replaced or removed, a second name that says so;
// and the requests that were carried out. It belongs to the partition because these ids must be
// remembered after their room is gone.
func SpentKey(partition int) string { return tag(partition) + "spent" }

// Keys are the names of one room's keys.
type Keys struct {
	prefix    string
	partition int
}

// Keys returns the key names of a room.
func (l Layout) Keys(roomID string) Keys {
	p := l.Partition(roomID)
	return Keys{prefix: tag(p) + "r:" + roomID + ":", partition: p}
}

// Channel is where the room's entries and notices are published.
func (k Keys) Channel() string { return k.prefix + "events" }

// Room is a hash: the room's settings, epoch, and the seq of its last entry.
func (k Keys) Room() string { return k.prefix + "room" }

// Permits is a sorted set: user by the time, in ms, at which the reserved seat lapses.
func (k Keys) Permits() string { return k.prefix + "permits" }

// Tokens is a hash: user to the secret of the user's permit.
func (k Keys) Tokens() string { return k.prefix + "tokens" }

// Permit is a string: the permit with this secret. Redis expires it when the permit lapses.
func (k Keys) Permit(secret string) string { return k.prefix + "permit:" + secret }

// Seats is a hash: user to the session that sits in the user's seat.
func (k Keys) Seats() string { return k.prefix + "seats" }

// Sessions is a hash: session to its user, gateway and member.
func (k Keys) Sessions() string { return k.prefix + "sessions" }

// Leases is the LeasesKey of the room's partition.
func (k Keys) Leases() string { return LeasesKey(k.partition) }

// Log is the stream: id "<seq>-<ms>", field f the frame.
func (k Keys) Log() string { return k.prefix + "log" }

// MessageIDs are two hashes of message ids used lately. They take turns, each for a period of
// two minutes.
func (k Keys) MessageIDs() [2]string { return [2]string{k.prefix + "ids:0", k.prefix + "ids:1"} }

// All returns every key of the room and its partition that the permit rules touch, in the
// order in which the scripts number them.
func (k Keys) All() []string {
	ids := k.MessageIDs()
	return []string{
		RoomsKey(k.partition), DueKey(k.partition), k.Leases(), SpentKey(k.partition),
		k.Room(), k.Permits(), k.Tokens(), k.Seats(), k.Sessions(), k.Log(), ids[0], ids[1],
	}
}
