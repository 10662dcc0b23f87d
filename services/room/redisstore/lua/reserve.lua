-- Reserves a seat, or gives a permit for the seat that the user has.
-- ARGV: 2 user  3 member JSON up to the nickname  4 the rest of it, or '' for none
--       5 secret of a new permit  6 time to live, ms
-- Answers {'OK', secret, deadline in ms} or {'ROOM_NOT_FOUND'}, {'ROOM_FULL'}.
if not open() then return {'ROOM_NOT_FOUND'} end
local user, token = ARGV[2], ARGV[5]
local seated = call('HEXISTS', SEATS, user) == 1
local held = call('HGET', TOKENS, user)
local reserved = held and call('ZSCORE', PERMITS, user) -- each reserved seat has its token
local permits = not seated and not reserved and call('ZCARD', PERMITS)
if permits and occupied() + permits >= room.capacity then return {'ROOM_FULL'} end
-- A permit that lives is prolonged: a repeated call, or a second tab, gets the same one,
-- and the nickname that it was reserved with, unless it brings another.
local permit = held and call('GET', PREFIX .. 'permit:' .. held)
if permit then token = held end
if not permit or ARGV[4] ~= '' then permit = user .. '\n' .. ARGV[3] .. '\n' .. ARGV[4] end
local deadline = now + tonumber(ARGV[6])
call('SET', PREFIX .. 'permit:' .. token, permit, 'PXAT', string.format(MS, deadline))
call('HSET', TOKENS, user, token)
if not seated then call('ZADD', PERMITS, string.format(MS, deadline), user) end
if room.vacant then call('HDEL', ROOM, 'vacant') end
due(deadline)
if seated or permits == 0 then keep(PERMITS, TOKENS) end -- else they are there
return {'OK', token, deadline}
