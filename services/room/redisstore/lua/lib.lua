-- The permit rules, shared by every script of a room. Needs clock.lua, entry.lua and
-- ages.lua before it.
-- KEYS: 1 rooms  2 due  3 leases  4 spent      (of the partition; package roomlog, keys.go)
--       5 room  6 permits  7 tokens  8 seats  9 sessions  10 log  11, 12 message ids
-- ARGV: 1 room id; the rest depends on the operation
--
-- Each permit is a key of its own, so that it expires by itself: the room's prefix and
-- permit:<token>. These keys are not among KEYS, because a caller cannot know which of them a
-- script will drop. They have the same hash tag.
--
-- A count is the cardinality of a set of holders. Whatever is past its deadline is dropped
-- before anything is counted.
local ROOMS, DUE, LEASES, SPENT, ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LOG, IDS0, IDS1
local ID, PREFIX, CHANNEL

-- The room's settings, or nil if there is no room. vacant is since when a room that has been
-- entered is empty; look is when the reaper next looks it through; visit is when the reaper's
-- next visit is due, or nil if that has not been read.
local room

-- begin(KEYS, ARGV): makes what follows work on the room of that call.
local function begin(keys, args)
  ROOMS, DUE, LEASES, SPENT, ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LOG, IDS0, IDS1 = unpack(keys)
  ID = args[1]
  PREFIX = string.sub(ROOM, 1, -5)
  CHANNEL = PREFIX .. 'events'
  room = nil
end

local function load()
  local h = call('HMGET', ROOM, 'capacity', 'epoch', 'title', 'presence', 'created', 'empty', 'departure', 'entered', 'vacant', 'seq', 'look')
  if not h[1] then return end
  room = {
    capacity = tonumber(h[1]), epoch = h[2], title = h[3], presence = h[4], created = tonumber(h[5]),
    empty = tonumber(h[6]), departure = tonumber(h[7]), entered = h[8], vacant = tonumber(h[9]), seq = tonumber(h[10]), look = tonumber(h[11]),
  }
end

-- due(ms): schedules a visit of the reaper at that time or earlier.
local function due(ms)
  if room.visit and room.visit <= ms then return end
  call('ZADD', DUE, 'LT', string.format(MS, ms), ID)
  room.visit = ms
end

-- leaseOf(session), leasesOf(session …): the names of sessions' leases among those of the
-- partition.
local function leaseOf(session) return ID .. ' ' .. session end
local function leasesOf(...)
  local names = {...}
  for i, session in ipairs(names) do names[i] = leaseOf(session) end
  return unpack(names)
end

local function occupied() return call('HLEN', SESSIONS) end

-- keep(key …): lets the keys expire an hour after whatever the room may be waiting for, as
-- every key of a room must. Scripts call it for new keys; the reaper's visits renew it.
local function keep(...)
  local ms = string.format(MS, (math.max(room.empty, room.departure) + 3600) * 1000)
  for _, key in ipairs({...}) do call('PEXPIRE', key, ms) end
end

-- keepLeases(): the same for the partition's leases, an hour after what any of its rooms may
-- wait for.
local function keepLeases() call('EXPIRE', LEASES, KEY_LIFE) end

-- notice(kind, data): sends the gateways a notice, which is in no log.
local function notice(kind, data) call('PUBLISH', CHANNEL, kind .. ' ' .. room.epoch .. ' 0 ' .. data) end

-- roster(kind, type, tail, seats): appends a join or a leave to the log. For rooms whose
-- presence is full.
local function roster(kind, type, tail, seats)
  room.seq = tonumber(entry(ROOM, LOG, CHANNEL, room.epoch, kind, type, tail .. ',"occupied":' .. seats .. '}'))
end

-- spend(name …): remembers for 2 minutes that these sessions have ended, so that no delayed
-- call brings one back. The partition remembers it, since it outlives the room. Names with a
-- space, which no session has, say why a session ended, for a gateway that missed the notice
-- (leases.go), or which request was carried out.
local function spend(...)
  call('ZREMRANGEBYSCORE', SPENT, '-inf', string.format(MS, now - SPENT_AGE))
  local scored = {}
  for _, name in ipairs({...}) do
    scored[#scored + 1] = NOW
    scored[#scored + 1] = name
  end
  call('ZADD', SPENT, unpack(scored))
  call('PEXPIRE', SPENT, SPENT_AGE)
end

-- carriedOut(what, request): whether a request with this id was carried out in this room in
-- the last 2 minutes. carried(what, request) records that this one was. '' means no id.
local function carriedOut(what, request)
  if request == '' then return false end
  local at = call('ZSCORE', SPENT, ID .. ' ' .. what .. ' ' .. request)
  return at and tonumber(at) > now - SPENT_AGE
end
local function carried(what, request)
  if request ~= '' then spend(ID .. ' ' .. what .. ' ' .. request) end
end

-- BULK: how many holders are passed to one call of Redis, since there may be thousands.
local BULK = 500
local function bulks(holders, f)
  for i = 1, #holders, BULK do f(unpack(holders, i, math.min(i + BULK - 1, #holders))) end
end

-- release(user …): drops the users' permits. At most BULK users.
local function release(...)
  local keys = {}
  for _, token in ipairs(call('HMGET', TOKENS, ...)) do
    if token then keys[#keys + 1] = PREFIX .. 'permit:' .. token end
  end
  call('ZREM', PERMITS, ...)
  if keys[1] then
    call('HDEL', TOKENS, ...)
    call('DEL', unpack(keys))
  end
end

-- reserveAgain(user, token): the user has left a seat and holds a permit for it. From now on
-- the permit reserves that seat.
local function reserveAgain(user, token)
  local left = call('PTTL', PREFIX .. 'permit:' .. token)
  if left <= 0 then
    call('HDEL', TOKENS, user)
    return
  end
  call('ZADD', PERMITS, string.format(MS, now + left), user)
  keep(PERMITS)
  due(now + left)
end

-- vacate(reason, session …): frees the seats that these sessions hold, at most BULK. Returns
-- how many of them held one.
local function vacate(reason, ...)
  spend(...)
  local users, members = {}, {}
  for _, value in ipairs(call('HMGET', SESSIONS, ...)) do
    if value then users[#users + 1], members[#members + 1] = string.match(value, '^([^\n]*)\n[^\n]*\n(.*)$') end
  end
  local seats = occupied()
  call('ZREM', LEASES, leasesOf(...))
  if not users[1] then return 0 end
  call('HDEL', SESSIONS, ...)
  call('HDEL', SEATS, unpack(users))
  for i, token in ipairs(call('HMGET', TOKENS, unpack(users))) do
    if token then reserveAgain(users[i], token) end
  end
  if room.presence ~= 'full' then
    notice('o', seats - #users)
    return #users
  end
  for i, member in ipairs(members) do
    roster('l', 'MEMBER_LEFT', ',"member":' .. member .. ',"reason":"' .. reason .. '"', seats - i)
  end
  return #users
end

-- ended(sessions): returns those whose leases have ended or do not exist.
local function ended(sessions)
  local found = {}
  bulks(sessions, function(...)
    local some = {...}
    for i, ends in ipairs(call('ZMSCORE', LEASES, leasesOf(...))) do
      if not ends or tonumber(ends) <= now then found[#found + 1] = some[i] end
    end
  end)
  return found
end

-- lapsed(): returns the room's sessions whose leases have ended, as far as they are among the
-- partition's first 100 ended leases. Usually there are few, since the reaper comes twice a
-- second. When a gateway has died there may be thousands, and looking at all of them in each
-- call would block Redis. Then a small room looks at its own sessions, and a large one leaves
-- them to the reaper.
local function lapsed()
  local first = call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', '0', '100')
  if #first == 100 and occupied() <= 100 then return ended(call('HKEYS', SESSIONS)) end
  local sessions, prefix = {}, leaseOf('')
  for _, name in ipairs(first) do
    if string.sub(name, 1, #prefix) == prefix then sessions[#sessions + 1] = string.sub(name, #prefix + 1) end
  end
  return sessions
end

-- purge(sessions): drops the permits that are past their deadline, and frees the seats of
-- these sessions.
local function purge(sessions)
  while true do
    local users = call('ZRANGEBYSCORE', PERMITS, '-inf', NOW, 'LIMIT', 0, BULK)
    if not users[1] then break end
    release(unpack(users))
  end
  bulks(sessions, function(...) vacate('LOST', ...) end)
end

-- erase(): deletes the room and all its keys. Its sessions are spent, so that a delayed
-- ConfirmJoin of one of them cannot get a seat in the next room of that id, let alone take
-- its user's seat over from a live session.
local function erase()
  bulks(call('HKEYS', SESSIONS), function(...)
    spend(...)
    call('ZREM', LEASES, leasesOf(...))
  end)
  for _, token in ipairs(call('HVALS', TOKENS)) do call('DEL', PREFIX .. 'permit:' .. token) end
  call('UNLINK', ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LOG, IDS0, IDS1)
  call('ZREM', ROOMS, ID)
  call('ZREM', DUE, ID)
  room = nil
end

-- settle(): deletes the room if its occupancy is zero and no timeout keeps it. Returns
-- whether the room lives.
local function settle()
  if occupied() + call('ZCARD', PERMITS) > 0 then
    if room.vacant then
      call('HDEL', ROOM, 'vacant')
      room.vacant = nil
    end
    return true
  end
  local ends
  if room.entered then
    if not room.vacant then
      room.vacant = now
      call('HSET', ROOM, 'vacant', NOW)
    end
    ends = room.vacant + room.departure * 1000
  else
    ends = room.created + room.empty * 1000
  end
  if ends <= now then
    erase()
    return false
  end
  due(math.min(ends, now + LOG_AGE)) -- earlier than it ends, if its log must be looked through before that
  return true
end

-- open(): loads the room and brings it up to date. There is nothing to do until a visit is
-- due or a lease has ended. Returns whether the room lives.
local function open()
  load()
  if not room then return false end
  room.visit = tonumber(call('ZSCORE', DUE, ID) or nil)
  local sessions = lapsed()
  if room.visit and room.visit > now and not sessions[1] then return true end
  purge(sessions)
  return settle()
end

-- describe(status, seats): returns {status, epoch, title, capacity, presence, created,
-- reserved, occupied, seq}. seats is the number of occupied seats; it is counted if not
-- given.
local function describe(status, seats)
  return {status, room.epoch, room.title, room.capacity, room.presence, room.created,
    call('ZCARD', PERMITS), seats or occupied(), room.seq}
end
