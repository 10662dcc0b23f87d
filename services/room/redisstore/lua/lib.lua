-- The permit rules, shared by every script of a room; clock.lua and entry.lua stand in front.
-- KEYS: 1 rooms  2 due  3 leases  4 spent      (of the partition; package roomlog, keys.go)
--       5 room  6 permits  7 tokens  8 seats  9 sessions  10 log  11, 12 message ids
-- ARGV: 1 room id; what follows is the operation's own
--
-- Permits are keys of their own, so that each lapses by itself: permit:<token> behind the
-- room's prefix. No caller knows those that a script drops on its way, so they are not
-- among KEYS; they have the same hash tag.
--
-- A count is the cardinality of a set of holders, and what is past its deadline is
-- dropped before anything is counted.
local ROOMS, DUE, LEASES, SPENT, ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LOG, IDS0, IDS1
local ID, PREFIX, CHANNEL

-- The room's settings, nil where there is no room. vacant: since when an entered
-- room has been empty. look: when the reaper next looks it through. visit: when it is due,
-- nil where that was not asked.
local room

-- begin(KEYS, ARGV): what follows is of that call.
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

-- due(ms): the room wants a visit of the reaper at that time, at the latest.
local function due(ms)
  if room.visit and room.visit <= ms then return end
  call('ZADD', DUE, 'LT', string.format(MS, ms), ID)
  room.visit = ms
end

-- leaseOf(session), leasesOf(session …): by which names the partition's leases have them.
local function leaseOf(session) return ID .. ' ' .. session end
local function leasesOf(...)
  local names = {...}
  for i, session in ipairs(names) do names[i] = leaseOf(session) end
  return unpack(names)
end

local function occupied() return call('HLEN', SESSIONS) end

-- keep(key …): every key of a room expires by itself, an hour past whatever it may
-- be waiting for. It is said of a key that is new; the reaper's visits renew it.
local function keep(...)
  local ms = string.format(MS, (math.max(room.empty, room.departure) + 3600) * 1000)
  for _, key in ipairs({...}) do call('PEXPIRE', key, ms) end
end

-- keepLeases(): the same of the partition's leases, an hour past what any of its rooms may
-- wait for.
local function keepLeases() call('EXPIRE', LEASES, '90000') end

-- notice(kind, data): tells the gateways something that stands in no log.
local function notice(kind, data) call('PUBLISH', CHANNEL, kind .. ' ' .. room.epoch .. ' 0 ' .. data) end

-- roster(kind, type, tail, seats): a join or a leave in the log, where presence is full.
local function roster(kind, type, tail, seats)
  room.seq = tonumber(entry(ROOM, LOG, CHANNEL, room.epoch, kind, type, tail .. ',"occupied":' .. seats .. '}'))
end

-- spend(name …): remembers for 2 minutes that these sessions have ended, so that no delayed
-- call brings one back. It is the partition that remembers, since it outlives the room.
-- Names with a space, as no session has, say why a session ended, for a gateway that missed
-- the notice (leases.go), or which request was carried out.
local function spend(...)
  call('ZREMRANGEBYSCORE', SPENT, '-inf', string.format(MS, now - 120000))
  local scored = {}
  for _, name in ipairs({...}) do
    scored[#scored + 1] = NOW
    scored[#scored + 1] = name
  end
  call('ZADD', SPENT, unpack(scored))
  call('PEXPIRE', SPENT, '120000')
end

-- carriedOut(what, request): what was asked for with that request id was carried out in
-- this room in the last 2 minutes. carried(what, request) says so of this call. '' is no
-- id.
local function carriedOut(what, request)
  if request == '' then return false end
  local at = call('ZSCORE', SPENT, ID .. ' ' .. what .. ' ' .. request)
  return at and tonumber(at) > now - 120000
end
local function carried(what, request)
  if request ~= '' then spend(ID .. ' ' .. what .. ' ' .. request) end
end

-- BULK: how many holders one call of Redis takes, where there may be thousands.
local BULK = 500
local function bulks(holders, f)
  for i = 1, #holders, BULK do f(unpack(holders, i, math.min(i + BULK - 1, #holders))) end
end

-- release(user …): drops the users' permits. At most BULK.
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

-- reserveAgain(user, token): the seat that the user has left is reserved from now on
-- by the permit that the user holds for it.
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

-- vacate(reason, session …): frees the seats that these sessions hold, at most BULK.
-- Answers how many held one.
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

-- ended(sessions): those of them whose leases have ended, or who have none.
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

-- lapsed(): the room's sessions whose leases have ended, found among the first of the
-- partition that have. Mostly there are few, since the reaper comes twice a second. When a
-- gateway has died there may be thousands, which would hold Redis up if each call looked at
-- all: then a small room looks at its own, and a large one leaves them to the reaper.
local function lapsed()
  local first = call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', '0', '100')
  if #first == 100 and occupied() <= 100 then return ended(call('HKEYS', SESSIONS)) end
  local sessions, prefix = {}, leaseOf('')
  for _, name in ipairs(first) do
    if string.sub(name, 1, #prefix) == prefix then sessions[#sessions + 1] = string.sub(name, #prefix + 1) end
  end
  return sessions
end

-- purge(sessions): frees what is past its deadline: permits, and the seats of these.
local function purge(sessions)
  while true do
    local users = call('ZRANGEBYSCORE', PERMITS, '-inf', NOW, 'LIMIT', 0, BULK)
    if not users[1] then break end
    release(unpack(users))
  end
  bulks(sessions, function(...) vacate('LOST', ...) end)
end

-- erase(): the room and every key of it are gone. Its sessions are spent: a delayed
-- ConfirmJoin of one of them must not get a seat in the next room of that id, let alone
-- its user's own from a session that lives.
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

-- settle(): deletes the room where its occupancy is zero and nothing keeps it.
-- Answers whether the room lives.
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
  due(math.min(ends, now + AGE)) -- sooner than it ends, where its log is to be looked through first
  return true
end

-- open(): loads the room and brings it up to now, which is nothing to do before it
-- is due, or a lease ends. Answers whether it lives.
local function open()
  load()
  if not room then return false end
  room.visit = tonumber(call('ZSCORE', DUE, ID) or nil)
  local sessions = lapsed()
  if room.visit and room.visit > now and not sessions[1] then return true end
  purge(sessions)
  return settle()
end

-- describe(status, seats): the answer {status, epoch, title, capacity, presence,
-- created, reserved, occupied, seq}. seats are those occupied, counted where not given.
local function describe(status, seats)
  return {status, room.epoch, room.title, room.capacity, room.presence, room.created,
    call('ZCARD', PERMITS), seats or occupied(), room.seq}
end
