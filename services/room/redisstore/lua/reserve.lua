-- Reserves a seat, or makes a permit for the seat that the user already has.
-- ARGV: 2 user  3 member JSON up to the nickname  4 the rest of it, or '' if there is none
--       5 secret of a new permit  6 time to live, ms
-- Returns: {'OK', secret, deadline in ms} or {'ROOM_NOT_FOUND'}, {'ROOM_FULL'}.
if not open() then return {'ROOM_NOT_FOUND'} end
local user, token = ARGV[2], ARGV[5]
local seated = call('HEXISTS', SEATS, user) == 1
local held = call('HGET', TOKENS, user)
local reserved = held and call('ZSCORE', PERMITS, user) -- every reserved seat has a token
local permits = not seated and not reserved and call('ZCARD', PERMITS)
if permits and occupied() + permits >= room.capacity then return {'ROOM_FULL'} end
-- A live permit is extended: a repeated call, or a second tab, gets the same permit. It keeps
-- the nickname with which it was reserved, unless the call has another one.
local permit = held and call('GET', PREFIX .. 'permit:' .. held)
if permit then token = held end
if not permit or ARGV[4] ~= '' then permit = user .. '\n' .. ARGV[3] .. '\n' .. ARGV[4] end
local deadline = now + tonumber(ARGV[6])
call('SET', PREFIX .. 'permit:' .. token, permit, 'PXAT', string.format(MS, deadline))
call('HSET', TOKENS, user, token)
if not seated then call('ZADD', PERMITS, string.format(MS, deadline), user) end
if room.vacant then call('HDEL', ROOM, 'vacant') end
due(deadline)
if seated or permits == 0 then keep(PERMITS, TOKENS) end -- otherwise these keys exist already
return {'OK', token, deadline}
