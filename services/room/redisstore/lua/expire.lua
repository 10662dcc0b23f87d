-- The reaper's visit to a room: frees what lapsed, drops log entries past their age,
-- renews the keys' own expiry now and then, and says when to come again.
-- Answers the number of seats freed.
load()
if not room then
  erase()
  return 0
end

-- soonest(): the first deadline of the room's permits and leases, nil without any.
local function soonest()
  local permits = call('ZRANGE', PERMITS, 0, 0, 'WITHSCORES')
  local leases = call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')
  local permit, lease = tonumber(permits[2]), tonumber(leases[2])
  return permit and lease and math.min(permit, lease) or permit or lease
end

-- A full Redis refuses a script whose first write is ZADD. This one removes nothing.
call('ZREM', DUE, '')
local freed, ends = 0, soonest()
-- Most visits find that every lease was renewed: then there is nothing to free.
if room.vacant or not ends or ends <= now then
  local before = call('ZCARD', LEASES) + call('ZCARD', PERMITS)
  purge()
  freed = before - call('ZCARD', LEASES) - call('ZCARD', PERMITS)
  call('ZREM', DUE, ID)
  if not settle() then return freed end
  ends = soonest()
end
if ends then call('ZADD', DUE, string.format(MS, ends), ID) end

-- Entries past their age, of which a busy room rids itself by number.
local first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
while first and tonumber(string.match(first[1], '%-(%d+)$')) < now - AGE do
  call('XDEL', LOG, first[1])
  first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
end

-- They expire after an hour at the earliest.
if now - (room.kept or 0) > AGE then
  keep(ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LEASES, LOG)
  call('HSET', ROOM, 'kept', NOW)
end
return freed
