-- Deletes a room even if it has members, and notifies the gateways.
-- ARGV: 2 request id or ''
-- Returns: {'OK'} or {'ROOM_NOT_FOUND'}.
if carriedOut('delete', ARGV[2]) then return {'OK'} end
if carriedOut('no delete', ARGV[2]) or not open() then
  carried('no delete', ARGV[2]) -- a repetition must not delete a room that is made in between
  return {'ROOM_NOT_FOUND'}
end
notice('d', '')
erase()
carried('delete', ARGV[2])
return {'OK'}
