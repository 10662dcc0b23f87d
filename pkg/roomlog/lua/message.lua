-- Appends messages of sessions, or of the application, to the logs of rooms, one after the
-- other; entry.lua stands in front.
-- KEYS, of each: 1 room  2 log  3 leases  4, 5 message ids of even and odd periods
-- ARGV, of each: 1 channel
--       2 epoch of the session's room ('' for the application: the room's own)
--       3 session ('' for the application, which needs no seat)
--       4 user and message id, joined ('' where the message has no id)
--       5 tail of the frame
-- Answers for each {0, seq} appended; {1, seq, ms} its id was used in the last two minutes,
-- by that entry, at that time; {2} the session has no live lease here; {3} no such room; or
-- the error that it, and no other, came to.
local period = (now - now % 120000) / 120000
local odd = period % 2

-- ids: the message ids of this period, and of the one before.
local function message(room, log, leases, ids, earlier, channel, epoch, session, id, tail)
  if session ~= '' then
    local lease = call('ZSCORE', leases, session)
    if not lease or tonumber(lease) <= now then return {2} end
  else
    epoch = call('HGET', room, 'epoch')
    if not epoch then return {3} end
  end

  if id ~= '' then
    for _, key in ipairs({ids, earlier}) do
      local used = call('HGET', key, id)
      if used then
        local seq, at = string.match(used, '^(%d+):(%d+)$')
        if tonumber(at) > now - 120000 then return {1, tonumber(seq), tonumber(at)} end
      end
    end
  end

  local seq = entry(room, log, channel, epoch, 'm', 'MESSAGE', tail)
  if id ~= '' then
    call('HSET', ids, id, seq .. ':' .. NOW)
    -- Gone when the period comes round to this key again. Mostly that has been said, and to
    -- look costs less than to say it again.
    local gone = (period + 2) * 120000
    if call('PEXPIRETIME', ids) ~= gone then call('PEXPIREAT', ids, string.format(MS, gone)) end
  end
  return {0, tonumber(seq)}
end

local answers = {}
for i = 1, #KEYS, 5 do
  local done, answer = pcall(message, KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 3 + odd], KEYS[i + 4 - odd],
    ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  if not done and type(answer) ~= 'table' then answer = {err = answer} end
  answers[#answers + 1] = answer
end
return answers
