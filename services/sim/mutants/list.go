package main

// mutant is one change that deliberately breaks a rule.
type mutant struct {
	name   string
	breaks string
	edits  []edit
}

// edit replaces a text that occurs in a file exactly once.
type edit struct{ file, old, new string }

const (
	lua     = "services/room/redisstore/lua/"
	gateway = "services/gateway/"
)

var mutants = []mutant{
	{"skip-the-purge", "I3, I8: what lapsed is counted on", []edit{
		{lua + "lib.lua", "  purge(sessions)\n  return settle()\n", "  return settle()\n"},
	}},
	{"free-before-takeover", "I2: a takeover frees the seat and takes it again", []edit{
		{lua + "confirm.lua", "local old = call('HGET', SEATS, user)\n",
			"local old = call('HGET', SEATS, user)\nif old then vacate('LEFT', old) old = nil end\n"},
	}},
	{"leave-without-session-check", "I4: a replaced session's leave frees the user's seat", []edit{
		{lua + "confirm.lua", "  call('HDEL', SESSIONS, old)\n", ""},
	}},
	{"callers-clock", "I1, I3: time is the caller's, not Redis'", []edit{
		{"pkg/roomlog/lua/clock.lua", "local NOW = clock[1] .. millis\n",
			"local NOW = string.match(ARGV[#ARGV] or '', '^at:(%d+)$') or clock[1] .. millis\n"},
		{"services/room/redisstore/store.go", "append([]any{roomID}, args...)...).Slice()",
			"append(append([]any{roomID}, args...), fmt.Sprintf(\"at:%d\", time.Now().UnixMilli()))...).Slice()"},
	}},
	{"no-self-fencing", "I6: a gateway goes on though its lease has ended", []edit{
		{gateway + "lease.go", "	return until != 0 && int64(now) >= until\n", "	return until < 0 && int64(now) >= until\n"},
	}},
	{"delete-at-local-zero", "I5: the last session's end deletes a room with reserved seats", []edit{
		{lua + "lib.lua", "  if occupied() + call('ZCARD', PERMITS) > 0 then\n", "  if occupied() > 0 then\n"},
	}},
	{"confirm-keeps-the-permit", "I3: a permit is confirmed again and again", []edit{
		{lua + "confirm.lua", "  call('HDEL', TOKENS, user)\n  call('DEL', PREFIX .. 'permit:' .. token)\n", ""},
	}},
	{"reserve-counts-twice", "I2: who has a seat is told that the room is full", []edit{
		{lua + "reserve.lua", "not seated and not reserved and call", "call"},
	}},
	{"reserve-counts-nothing", "I1: a permit reserves no seat", []edit{
		{lua + "reserve.lua", "if not seated then call('ZADD', PERMITS, string.format(MS, deadline), user) end\n", ""},
	}},
	{"renew-revives", "I6: a lease that has ended is renewed", []edit{
		{lua + "renew.lua", "  if ended[ARGV[i]] then\n", "  if false then\n"},
	}},
	{"confirm-revives", "I6: the same by a repeated ConfirmJoin", []edit{
		{lua + "confirm.lua", "  if ended({session})[1] then", "  if false then"},
	}},
	{"append-without-lease", "I6: who holds no seat may speak", []edit{
		{"pkg/roomlog/lua/message.lua", "  if not lease or tonumber(lease) <= now then return {2} end\n", ""},
	}},
	{"spent-sessions-come-back", "I4: a delayed ConfirmJoin takes the seat of a session that lives", []edit{
		{lua + "confirm.lua", "if call('ZSCORE', SPENT, session) then return {'SPENT'} end\n", ""},
	}},
	{"spent-forgotten-with-the-room", "I4: the same, in the next room of that id", []edit{
		{lua + "lib.lua", "SEATS, SESSIONS, LOG, IDS0, IDS1)", "SEATS, SESSIONS, SPENT, LOG, IDS0, IDS1)"},
	}},
	{"capacity-off-by-one", "I1: one walk-in too many", []edit{
		{lua + "confirm.lua", ">= room.capacity then return {'ROOM_FULL'} end", "> room.capacity then return {'ROOM_FULL'} end"},
	}},
	{"cancel-frees-a-seat", "I4: cancelling a permit frees the seat that its user sits in", []edit{
		{lua + "cancel.lua", "if value then\n",
			"if value then\n  local sitting = call('HGET', SEATS, string.match(value, '^[^\\n]*'))\n  if sitting then vacate('LEFT', sitting) end\n"},
	}},
	{"reaper-asleep", "I8: seats of the dead come back when somebody asks", []edit{
		{"services/room/reaper.go", "const ReapEvery = 500 * time.Millisecond", "const ReapEvery = 30 * time.Second"},
	}},
	{"reaper-passes-by", "I8: a lease that has ended is seen, and its room not visited", []edit{
		{lua + "due.lua", "  elseif sessions[id] or #wanted < 100 then\n", "  elseif sessions[id] then\n"},
	}},
	{"renewal-from-when-it-came", "I8: a renewal that was held up keeps a dead gateway's seats", []edit{
		{lua + "renew.lua", "local late = latest and latest < ends\n", "local late = false\n"},
	}},
	{"subscription-trusted", "I7: one that brings nothing any more is believed", []edit{
		{"pkg/roomlog/probe.go", "		if silent > probePatience {\n", "		if silent > 1000*probePatience {\n"},
	}},
	{"break-not-read", "I7: what was published while nobody listened waits for a later entry", []edit{
		{gateway + "hub.go", "					if r := s.rooms[roomID]; r != nil {\n", "					if r := s.rooms[roomID]; r != nil && len(r.members) == 0 {\n"},
	}},
	{"page-boundary", "I7: a room that catches up leaves out the first entry of a page", []edit{
		{gateway + "batch.go", "	case r.reading == readPaused:\n", "	case r.reading == readPaused:\n		r.last++\n"},
	}},
	{"replay-boundary", "I7: a replay leaves out the first entry of its second page", []edit{
		{gateway + "replay.go", "p.readOn(next)\n", "p.readOn(next + 1)\n"},
	}},
	{"gap-untold", "I7: who comes back too late is not told what is missing", []edit{
		{gateway + "replay.go", "	if from > to {\n", "	if from > to || from > 1 {\n"},
	}},
	{"gap-in-a-room-untold", "I7: members are not told what their gateway missed", []edit{
		{gateway + "catchup.go", "	r.put(from, seq, wire.GapFrame(from, seq))\n", "	r.last = seq\n"},
	}},
	{"slow-readers-kept", "a reader that takes nothing is not closed with 4508", []edit{
		{gateway + "socket.go", "idle >= wire.SendTimeout {\n", "idle >= 1000*wire.SendTimeout {\n"},
		{gateway + "socket.go", "		if len(s.queue)+s.writing+len(frames) > s.limit {\n", "		if len(s.queue)+s.writing+len(frames) > 1000*s.limit {\n"},
	}},
	{"closed-slow-reader-unfenced", "I6: what waits for a replaced slow reader outlives its lease", []edit{
		{gateway + "lease.go", "		s.sock.fence() // if it was closed", "		// if it was closed"},
	}},
	{"joiners-miss-the-recent", "I7: what came during a replay is left out", []edit{
		{gateway + "localroom.go", "		if len(recent) == 0 || recent[0].Seq > seq+1 {\n			return false\n		}\n		var missed []byte\n		for _, e := range recent[seq+1-recent[0].Seq:] {\n",
			"		var missed []byte\n		for _, e := range recent[:0] {\n"},
	}},
	{"lease-too-long", "I6: a gateway takes a lease for 4 s longer than it is", []edit{
		{gateway + "lease.go", "leasedUntil(end time.Duration) {\n", "leasedUntil(end time.Duration) {\n	end += 4 * time.Second\n"},
	}},
	{"runs-share-an-id", "I8: the reaper comes to another room than the one that a call was for", []edit{
		{lua + "lib.lua", "  ID = args[1]\n", "  ID = ID or args[1]\n"},
	}},
	{"runs-share-permits", "I3: a permit lies in another room than the one that it is for", []edit{
		{lua + "lib.lua", "  PREFIX = string.sub", "  PREFIX = PREFIX or string.sub"},
	}},
	{"runs-share-a-channel", "I5: joins and leaves are published in another room", []edit{
		{lua + "lib.lua", "  CHANNEL = PREFIX", "  CHANNEL = CHANNEL or PREFIX"},
	}},
}
