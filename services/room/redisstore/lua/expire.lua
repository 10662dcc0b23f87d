-- The reaper's visit to a room: frees what lapsed, says when to come again, and now and
-- then looks the room through.
-- Answers the number of seats freed.
load()
if not room then
  erase()
  return 0
end

-- The first write, since a full Redis refuses a script that begins with ZADD.
call('ZREM', DUE, ID)
local before = call('ZCARD', LEASES) + call('ZCARD', PERMITS)
purge()
local freed = before - call('ZCARD', LEASES) - call('ZCARD', PERMITS)
if not settle() then return freed end
for _, holders in ipairs({PERMITS, LEASES}) do
  local first = call('ZRANGE', holders, '0', '0', 'WITHSCORES')
  if first[2] then due(tonumber(first[2])) end
end

-- A time further ahead than that is of a clock that was set back.
if now >= (room.look or 0) or room.look > now + LOOK then
  -- Entries past their age, of which a busy room rids itself by number.
  local first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  while first and tonumber(string.match(first[1], '%-(%d+)$')) < now - AGE do
    call('XDEL', LOG, first[1])
    first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  end
  keep(ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LEASES, LOG)
  call('HSET', ROOM, 'look', string.format(MS, now + LOOK))
end
return freed
