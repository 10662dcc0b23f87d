-- Gives a permit back.
-- ARGV: 2 secret
-- Returns: {'OK'}, also if there is no such permit.
if not open() then return {'OK'} end
local value = call('GET', PREFIX .. 'permit:' .. ARGV[2])
if value then
  release(string.match(value, '^[^\n]*'))
  settle()
end
return {'OK'}
