// Package roomlog is a room's one ordered log in Redis: append and publish in one
// step, read a range, subscribe.
//
// An entry of the log is a frame ready to be sent to browsers. It is built once
// for the whole cluster: its sender knows what stands behind "time", a script in
// Redis puts type, seq and time in front, adds it to the room's stream and
// publishes it on the room's channel; every gateway forwards the bytes.
//
// The log keeps the last 1,000 entries of a room, at most 10 minutes old. What is
// published can be lost on its way, what stands in the stream is the truth: a
// reader that finds a hole between two seqs reads the range.
//
// On the channel, a short header stands in front of the frame:
//
//	<kind> SP <epoch> SP <seq> SP <data>
//
// Kinds with a seq are entries; the others are notices that stand in no log.
package roomlog

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// The numbers of partitions: of a new cluster, and the most that there may be.
const (
	DefaultPartitions = 64
	MaxPartitions     = 4096
)

// ClusterKey is a hash that records what all processes of a cluster must agree on.
const ClusterKey = "ar:cluster"

// Layout says where rooms lie: every room belongs to one of Partitions partitions,
// and all keys of a room carry the partition's hash tag, so that one script can
// touch them, the partition's index and its due queue on Redis Cluster too.
type Layout struct {
	Partitions int
}

// Check finds what no cluster has, in terms of the setting.
func (l Layout) Check() error {
	if l.Partitions < 1 || l.Partitions > MaxPartitions {
		return fmt.Errorf("--partitions is %d, outside 1 to %d", l.Partitions, MaxPartitions)
	}
	return nil
}

// Partition is the partition of a room, 0 to Partitions-1.
func (l Layout) Partition(roomID string) int {
	h := fnv.New32a()
	h.Write([]byte(roomID))
	return int(h.Sum32() % uint32(l.Partitions))
}

func tag(partition int) string { return "ar:{p" + strconv.Itoa(partition) + "}:" }

// RoomsKey is the sorted set of a partition's rooms by create time in µs.
func RoomsKey(partition int) string { return tag(partition) + "rooms" }

// DueKey is the sorted set of a partition's rooms by the ms at which the reaper is to visit
// them, at the latest: a permit may lapse, or an empty room end, or it is time to look the
// room through.
func DueKey(partition int) string { return tag(partition) + "due" }

// LeasesKey is the sorted set of a partition's leases (Lease) by the ms at which they
// end. They stand together, so that one command renews all that a gateway has there, and
// one look finds those that have ended.
func LeasesKey(partition int) string { return tag(partition) + "leases" }

// Lease is the name of a session's lease among those of its room's partition. Room ids have
// no spaces.
func Lease(roomID, session string) string { return roomID + " " + session }

// SpentKey is the sorted set of a partition's sessions that ended lately, by the ms at
// which they did; of why, where they were replaced or removed; and of requests that were
// carried out. It is not a room's: their ids are remembered when the room is gone.
func SpentKey(partition int) string { return tag(partition) + "spent" }

// Keys are the names of one room's keys.
type Keys struct {
	prefix    string
	partition int
}

// Keys answers with the key names of a room.
func (l Layout) Keys(roomID string) Keys {
	p := l.Partition(roomID)
	return Keys{prefix: tag(p) + "r:" + roomID + ":", partition: p}
}

// Channel is where the room's entries and notices are published.
func (k Keys) Channel() string { return k.prefix + "events" }

// Room is a hash: the room's settings, epoch, and the seq of its last entry.
func (k Keys) Room() string { return k.prefix + "room" }

// Permits is a sorted set: user by the ms at which the reserved seat lapses.
func (k Keys) Permits() string { return k.prefix + "permits" }

// Tokens is a hash: user to the secret of the user's permit.
func (k Keys) Tokens() string { return k.prefix + "tokens" }

// Permit is a string that lapses by itself: the permit with this secret.
func (k Keys) Permit(secret string) string { return k.prefix + "permit:" + secret }

// Seats is a hash: user to the session that sits in the user's seat.
func (k Keys) Seats() string { return k.prefix + "seats" }

// Sessions is a hash: session to its user, gateway and member.
func (k Keys) Sessions() string { return k.prefix + "sessions" }

// Leases is the LeasesKey of the room's partition.
func (k Keys) Leases() string { return LeasesKey(k.partition) }

// Log is the stream: id "<seq>-<ms>", field f the frame.
func (k Keys) Log() string { return k.prefix + "log" }

// MessageIDs are two hashes of message ids used lately, each for every other
// period of two minutes.
func (k Keys) MessageIDs() [2]string { return [2]string{k.prefix + "ids:0", k.prefix + "ids:1"} }

// All answers with every key of the room and its partition that the permit rules
// touch, in the order that the scripts number them.
func (k Keys) All() []string {
	ids := k.MessageIDs()
	return []string{
		RoomsKey(k.partition), DueKey(k.partition), k.Leases(), SpentKey(k.partition),
		k.Room(), k.Permits(), k.Tokens(), k.Seats(), k.Sessions(), k.Log(), ids[0], ids[1],
	}
}
