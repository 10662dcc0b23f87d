-- The permit rules, shared by every script of a room; entry() stands in front.
-- KEYS: 1 rooms  2 due  3 room  4 permits  5 tokens  6 seats  7 sessions  8 leases
--       9 spent  10 log  11, 12 message ids      (package roomlog, keys.go)
-- ARGV: 1 room id; what follows is the operation's own
--
-- A count is the cardinality of a set of holders, and what is past its deadline is
-- dropped before anything is counted. The time is Redis' own, in ms.
local call = redis.call
local ROOMS, DUE, ROOM, PERMITS, TOKENS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SEATS, SESSIONS, LEASES, SPENT, LOG = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local ID = ARGV[1]
local PREFIX = string.sub(ROOM, 1, -5)
local CHANNEL = PREFIX .. 'events'
local MS = '%.0f'

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local NOW = string.format(MS, now)

-- The room's settings, nil where there is no room. vacant: since when an entered
-- room has been empty.
local room

local function load()
  local h = call('HMGET', ROOM, 'capacity', 'epoch', 'title', 'presence', 'created', 'empty', 'departure', 'entered', 'vacant')
  if not h[1] then return end
  room = {
    capacity = tonumber(h[1]), epoch = h[2], title = h[3], presence = h[4], created = tonumber(h[5]),
    empty = tonumber(h[6]), departure = tonumber(h[7]), entered = h[8], vacant = tonumber(h[9]),
  }
end

-- due(ms): the room wants a visit of the reaper at that time, at the latest.
local function due(ms) call('ZADD', DUE, 'LT', string.format(MS, ms), ID) end

-- keep(key …): every key of a room expires by itself, an hour past whatever it may
-- be waiting for; the reaper's visits renew it.
local function keep(...)
  local ms = (math.max(room.empty, room.departure) + 3600) * 1000
  for _, key in ipairs({...}) do call('PEXPIRE', key, ms) end
end

-- notice(kind, data): tells the gateways something that stands in no log.
local function notice(kind, data) call('PUBLISH', CHANNEL, kind .. ' ' .. room.epoch .. ' 0 ' .. data) end

-- roster(kind, type, tail): a join or a leave, in the log or as a number only.
local function roster(kind, type, tail)
  local occupied = call('ZCARD', LEASES)
  if room.presence == 'full' then
    entry(ROOM, LOG, CHANNEL, room.epoch, now, kind, type, tail .. ',"occupied":' .. occupied .. '}')
  else
    notice('o', occupied)
  end
end

-- spend(session): its id is never used again, by a delayed call neither.
local function spend(session)
  call('ZREMRANGEBYSCORE', SPENT, '-inf', string.format(MS, now - 120000))
  call('ZADD', SPENT, NOW, session)
  call('PEXPIRE', SPENT, 120000)
end

-- release(user): drops the user's permit.
local function release(user)
  call('ZREM', PERMITS, user)
  local token = call('HGET', TOKENS, user)
  if token then
    call('HDEL', TOKENS, user)
    call('DEL', PREFIX .. 'permit:' .. token)
  end
end

-- vacate(session, reason): frees the seat that the session holds. Where its user has
-- a permit for that same seat, the seat is reserved from now on. Answers whether the
-- session held one.
local function vacate(session, reason)
  spend(session)
  local value = call('HGET', SESSIONS, session)
  if not value then return false end
  local user, member = string.match(value, '^([^\n]*)\n[^\n]*\n(.*)$')
  call('HDEL', SESSIONS, session)
  call('ZREM', LEASES, session)
  call('HDEL', SEATS, user)
  local token = call('HGET', TOKENS, user)
  if token then
    local left = call('PTTL', PREFIX .. 'permit:' .. token)
    if left > 0 then
      call('ZADD', PERMITS, string.format(MS, now + left), user)
      keep(PERMITS)
      due(now + left)
    else
      call('HDEL', TOKENS, user)
    end
  end
  roster('l', 'MEMBER_LEFT', ',"member":' .. member .. ',"reason":"' .. reason .. '"')
  return true
end

-- purge(): frees what is past its deadline.
local function purge()
  for _, user in ipairs(call('ZRANGEBYSCORE', PERMITS, '-inf', NOW)) do release(user) end
  for _, session in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', NOW)) do vacate(session, 'LOST') end
end

-- erase(): the room and every key of it are gone.
local function erase()
  for _, token in ipairs(call('HVALS', TOKENS)) do call('DEL', PREFIX .. 'permit:' .. token) end
  call('DEL', ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LEASES, SPENT, LOG, KEYS[11], KEYS[12])
  call('ZREM', ROOMS, ID)
  call('ZREM', DUE, ID)
  room = nil
end

-- settle(): deletes the room where its occupancy is zero and nothing keeps it.
-- Answers whether the room lives.
local function settle()
  if call('ZCARD', LEASES) + call('ZCARD', PERMITS) > 0 then
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
  due(ends)
  return true
end

-- open(): loads the room and brings it up to now. Answers whether it lives.
local function open()
  load()
  if not room then return false end
  purge()
  return settle()
end

-- describe(status): the answer {status, epoch, title, capacity, presence, created,
-- reserved, occupied, seq}.
local function describe(status)
  return {status, room.epoch, room.title, room.capacity, room.presence, room.created,
    call('ZCARD', PERMITS), call('ZCARD', LEASES), tonumber(call('HGET', ROOM, 'seq') or 0)}
end
