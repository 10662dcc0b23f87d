-- The reaper's visit to a room: frees what has lapsed, sets the time of the next visit, and
-- from time to time looks the room through.
-- ARGV: 2 sessions whose leases have ended (due.lua), separated by spaces
-- Returns: the number of seats freed.
local sessions = {}
for session in string.gmatch(ARGV[2], '[^ ]+') do sessions[#sessions + 1] = session end
load()
if not room then
  bulks(sessions, function(...) call('ZREM', LEASES, leasesOf(...)) end)
  erase()
  return 0
end

-- This must be the first write: a full Redis refuses a script that begins with ZADD.
call('ZREM', DUE, ID)
local before = occupied() + call('ZCARD', PERMITS)
-- If the time for the next look is further ahead than LOOK, the clock was set back since.
local look = now >= (room.look or 0) or room.look > now + LOOK
-- Seats lose their lease only when somebody deletes keys by hand; no script leaves such
-- seats. Look at some seats, and at all if one without a lease is found.
local some = look and call('HRANDFIELD', SESSIONS, BULK) or {}
bulks(some, function(...)
  for _, ends in ipairs(call('ZMSCORE', LEASES, leasesOf(...))) do
    if not ends then
      sessions = call('HKEYS', SESSIONS)
      break
    end
  end
end)
purge(ended(sessions))
local freed = before - occupied() - call('ZCARD', PERMITS)
if not settle() then return freed end
if look then
  -- Drop entries that are too old. In a busy room, the limit on their number does that.
  local first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  while first and tonumber(string.match(first[1], '%-(%d+)$')) < now - LOG_AGE do
    call('XDEL', LOG, first[1])
    first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  end
  keep(ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LOG)
  keepLeases()
  room.look = now + LOOK
  call('HSET', ROOM, 'look', string.format(MS, room.look))
end
due(room.look)
local first = call('ZRANGE', PERMITS, '0', '0', 'WITHSCORES')
if first[2] then due(tonumber(first[2])) end
return freed
