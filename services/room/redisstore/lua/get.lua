-- Returns describe('OK') or {'ROOM_NOT_FOUND'}.
if not open() then return {'ROOM_NOT_FOUND'} end
return describe('OK')
