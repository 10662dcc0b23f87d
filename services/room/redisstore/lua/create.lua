-- Makes a room.
-- ARGV: 2 epoch  3 title  4 capacity  5 presence  6 empty timeout, s
--       7 departure timeout, s  8 request id or ''
-- Returns: describe('OK') or {'ROOM_EXISTS'}.
if open() then
  if ARGV[8] ~= '' and call('HGET', ROOM, 'request') == ARGV[8] then return describe('OK') end
  return {'ROOM_EXISTS'}
end
-- This comes before erase(): a full Redis refuses a script by its first write only, and one that
-- begins with a deletion would go on.
call('HSET', ROOM, 'epoch', ARGV[2])
erase() -- removes what an earlier room left, if its hash expired before its other keys
call('HSET', ROOM, 'epoch', ARGV[2], 'title', ARGV[3], 'capacity', ARGV[4], 'presence', ARGV[5],
  'empty', ARGV[6], 'departure', ARGV[7], 'request', ARGV[8], 'created', NOW, 'seq', 0,
  'look', string.format(MS, now + LOOK))
-- In µs, so that rooms are listed in the order in which they were made.
call('ZADD', ROOMS, clock[1] .. string.format('%06d', clock[2]), ID)
load()
settle()
keep(ROOM)
return describe('OK')
