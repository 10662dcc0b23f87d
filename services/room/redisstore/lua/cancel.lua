-- Gives a permit back.
-- ARGV: 2 secret
-- Answers {'OK'}, also where there is no such permit.
if not open() then return {'OK'} end
local value = call('GET', PREFIX .. 'permit:' .. ARGV[2])
if value then
  release(string.match(value, '^[^\n]*'))
  settle()
end
return {'OK'}
