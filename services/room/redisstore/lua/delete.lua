-- Deletes a room whoever is in it, and tells the gateways.
-- Answers {'OK'} or {'ROOM_NOT_FOUND'}.
if not open() then return {'ROOM_NOT_FOUND'} end
notice('d', '')
erase()
return {'OK'}
