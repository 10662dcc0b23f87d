-- Deletes a room even if it has members, and notifies the gateways.
-- ARGV: 2 request id or ''
-- Returns: {'OK'} or {'ROOM_NOT_FOUND'}.
if carriedOut('delete', ARGV[2]) then return {'OK'} end
if not open() then return {'ROOM_NOT_FOUND'} end
notice('d', '')
erase()
carried('delete', ARGV[2])
return {'OK'}
