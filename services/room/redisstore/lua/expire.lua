-- The reaper's visit to a room: frees what lapsed, drops log entries past their age,
-- renews the keys' own expiry, and says when to come again.
-- Answers the number of seats freed.
load()
if not room then
  erase()
  return 0
end
local before = call('ZCARD', LEASES) + call('ZCARD', PERMITS)
purge()
local freed = before - call('ZCARD', LEASES) - call('ZCARD', PERMITS)
if not settle() then return freed end

-- Entries past their age, of which a busy room rids itself by number.
local first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
while first and tonumber(string.match(first[1], '%-(%d+)$')) < now - 600000 do
  call('XDEL', LOG, first[1])
  first = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
end

call('ZREM', DUE, ID)
room.visit = nil
settle()
for _, set in ipairs({PERMITS, LEASES}) do
  local soonest = call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if soonest[2] then due(tonumber(soonest[2])) end
end
keep(ROOM, PERMITS, TOKENS, SEATS, SESSIONS, LEASES, LOG)
return freed
