-- The reaper's visit to a room: frees what lapsed, says when to come again, and now and
-- then looks the room through.
-- ARGV: 2 sessions whose leases have ended (due.lua), with spaces between them
-- Answers the number of seats freed.
local sessions = {}
for session in string.gmatch(ARGV[2], '[^ ]+') do sessions[#sessions + 1] = session end
load()
if not room then
  bulks(sessions, function(...) call('ZREM', LEASES, leasesOf(...)) end)
  erase()
  return 0
end

-- The first write, since a full Redis refuses a script that begins with ZADD.
call('ZREM', DUE, ID)
local before = occupied() + call('ZCARD', PERMITS)
-- A time to look it through that is further ahead than that is of a clock that was set back.
local look = now >= (room.look or 0) or room.look > now + LOOK
-- Seats without a lease are left by whoever deletes keys by hand, and by no script: some are
-- looked at, and all where one is found.
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
  -- Entries past their age, of which a busy room rids itself by number.
  local first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  while first and tonumber(string.match(first[1], '%-(%d+)$')) < now - AGE do
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
