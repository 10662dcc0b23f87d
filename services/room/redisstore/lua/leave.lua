-- Gives a seat up on behalf of the session that holds it.
-- ARGV: 2 session  3 reason  4 '1' if the session has ended
-- Returns: {'OK'}, also if the session holds no seat.
if not open() then
  spend(ARGV[2]) -- its ConfirmJoin may arrive later, when the room may have been made anew
  return {'OK'}
end
if vacate(ARGV[3], ARGV[2]) > 0 then
  if ARGV[4] ~= '1' then notice('g', ARGV[2]) end
  settle()
end
return {'OK'}
