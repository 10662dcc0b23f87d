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
local before = occupied() + call('ZCARD', PERMITS)
-- A time to look it through that is further ahead than that is of a clock that was set back.
local look = now >= (room.look or 0) or room.look > now + LOOK
purge(lapsed(look))
local freed = before - occupied() - call('ZCARD', PERMITS)
if not settle() then return freed end
if look then
  -- Entries past their age, of which a busy room rids itself by number.
  local first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  while first and tonumber(string.match(first[1], '%-(%d+)$')) < now - AGE do
    call('XDEL', LOG, first[1])
    first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  end
  keep(ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LEASES, LOG)
  room.look = now + LOOK
  call('HSET', ROOM, 'look', string.format(MS, room.look))
end
due(room.look)
local first = call('ZRANGE', PERMITS, '0', '0', 'WITHSCORES')
if first[2] then due(tonumber(first[2])) end
return freed
