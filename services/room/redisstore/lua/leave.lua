-- Gives a seat up in the name of the session that holds it.
-- ARGV: 2 session  3 reason
-- Answers {'OK'}, also where the session holds none.
if not open() then return {'OK'} end
if vacate(ARGV[3], ARGV[2]) > 0 then settle() end
return {'OK'}
