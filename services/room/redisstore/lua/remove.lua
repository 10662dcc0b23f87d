-- Takes away a user's seat and permit.
-- ARGV: 2 user  3 request id or ''
-- Returns: {'OK'} or {'ROOM_NOT_FOUND'}.
if carriedOut('remove ' .. ARGV[2], ARGV[3]) then return {'OK'} end
if carriedOut('no remove ' .. ARGV[2], ARGV[3]) or not open() then
  carried('no remove ' .. ARGV[2], ARGV[3]) -- a repetition must not remove anybody from a room that is made in between
  return {'ROOM_NOT_FOUND'}
end
release(ARGV[2])
local session = call('HGET', SEATS, ARGV[2])
if session then
  notice('x', session)
  vacate('REMOVED', session)
  spend('removed ' .. session)
end
settle()
carried('remove ' .. ARGV[2], ARGV[3])
return {'OK'}
