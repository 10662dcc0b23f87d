-- Confirms a session in a seat: the permit's, the user's own, or a free one.
-- ARGV: 2 session  3 gateway  4 secret of the permit, or '' for a walk-in
--       5 user ('' with a permit: the permit's)  6 member JSON up to the nickname
--       7 the rest of it, or '' if there is none  8 '1': only the user's own seat
--       9 lease, ms  10 time from which the call is too late, ms, or '' for never
-- Returns: describe('OK') followed by the session's value and, if presence is full, the
-- values of all sessions; or {status}: ROOM_NOT_FOUND, PERMIT_EXPIRED, FORBIDDEN, ROOM_FULL,
-- SPENT, LATE.
if ARGV[10] ~= '' and now >= tonumber(ARGV[10]) then return {'LATE'} end
if not open() then return {'ROOM_NOT_FOUND'} end
local session, token, user, head, nick = ARGV[2], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local function answer(value, seats)
  local a = describe('OK', seats)
  a[#a + 1] = value
  if room.presence == 'full' then
    for _, value in ipairs(call('HVALS', SESSIONS)) do a[#a + 1] = value end
  end
  return a
end

-- A repeated call renews the lease, because its caller counts the lease from when this call
-- was sent.
local deadline = now + tonumber(ARGV[9])
local confirmed = call('HGET', SESSIONS, session)
if confirmed then
  local holder = string.match(confirmed, '^[^\n]*')
  if user ~= '' and user ~= holder then return {'FORBIDDEN'} end
  -- If this call was carried out before, its permit is used up.
  local permit = token ~= '' and call('GET', PREFIX .. 'permit:' .. token)
  if permit and string.match(permit, '^[^\n]*') ~= holder then return {'FORBIDDEN'} end
  if ended({session})[1] then -- one of many ended leases, which open() has not looked at
    vacate('LOST', session)
    settle()
    return {'SPENT'}
  end
  call('ZREM', LEASES, '') -- a full Redis refuses a script whose first write is ZADD
  call('ZADD', LEASES, 'XX', string.format(MS, deadline), leaseOf(session))
  return answer(confirmed)
end
if call('ZSCORE', SPENT, session) then return {'SPENT'} end

if token ~= '' then
  local value = call('GET', PREFIX .. 'permit:' .. token)
  if not value then return {'PERMIT_EXPIRED'} end
  local owner, ownHead, ownNick = string.match(value, '^([^\n]*)\n([^\n]*)\n(.*)$')
  if user ~= '' and user ~= owner then return {'FORBIDDEN'} end
  user, head = owner, ownHead
  if nick == '' then nick = ownNick end
end

local old = call('HGET', SEATS, user)
if token ~= '' then
  local reserved = call('ZREM', PERMITS, user) == 1
  -- At the millisecond in which both lapse, the string may exist a little longer than the
  -- seat is reserved.
  if not old and not reserved then return {'PERMIT_EXPIRED'} end
  call('HDEL', TOKENS, user)
  call('DEL', PREFIX .. 'permit:' .. token)
elseif call('ZSCORE', PERMITS, user) then
  if nick == '' then
    local value = call('GET', PREFIX .. 'permit:' .. call('HGET', TOKENS, user))
    nick = value and string.match(value, '^[^\n]*\n[^\n]*\n(.*)$') or ''
  end
  release(user)
elseif not old then -- a user who has a seat takes it over; a permit for it stays with the other tab
  if ARGV[8] == '1' then return {'FORBIDDEN'} end
  if occupied() + call('ZCARD', PERMITS) >= room.capacity then return {'ROOM_FULL'} end
end

local member
if old then
  -- The seat is handed over. It is never free in between, and the roster does not change.
  member = string.match(call('HGET', SESSIONS, old), '^[^\n]*\n[^\n]*\n(.*)$')
  call('HDEL', SESSIONS, old)
  call('ZREM', LEASES, leaseOf(old))
  spend(old, 'replaced ' .. old)
  notice('r', old)
else
  member = head .. nick .. '}'
end
call('HSET', SEATS, user, session)
local value = user .. '\n' .. ARGV[3] .. '\n' .. member
call('HSET', SESSIONS, session, value)
call('ZADD', LEASES, string.format(MS, deadline), leaseOf(session))
if not room.entered then call('HSET', ROOM, 'entered', '1') end
if room.vacant then call('HDEL', ROOM, 'vacant') end
local seats = occupied()
if not old then
  if room.presence == 'full' then
    roster('j', 'MEMBER_JOINED', ',"member":' .. member, seats)
  else
    notice('o', seats)
  end
end
if old or seats == 1 then
  keep(SEATS, SESSIONS)
  keepLeases()
end
-- The next visit is no later than the time to look the room through, and at most LOOK from now,
-- even if Redis' clock was set back since the room was made.
due(math.min(room.look or now, now + LOOK))
return answer(value, seats)
