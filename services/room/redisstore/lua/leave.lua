-- Gives a seat up in the name of the session that holds it.
-- ARGV: 2 session  3 reason  4 '1' if the session has ended
-- Answers {'OK'}, also where the session holds none.
if not open() then
  spend(ARGV[2]) -- its ConfirmJoin may be on its way yet, and the room be made anew
  return {'OK'}
end
if vacate(ARGV[3], ARGV[2]) > 0 then
  if ARGV[4] ~= '1' then notice('g', ARGV[2]) end
  settle()
end
return {'OK'}
