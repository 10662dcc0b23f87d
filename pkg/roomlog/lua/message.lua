-- Appends a message of a session, or of the application, to a room's log. Needs entry.lua
-- before it.
-- KEYS: 1 room  2 log  3 leases of the partition  4, 5 message ids of even and odd periods
-- ARGV: 1 channel
--       2 epoch of the session's room ('' for the application: the room's own)
--       3 name of the session's lease ('' for the application, which needs no seat)
--       4 user and message id, joined ('' if the message has no id)
--       5 tail of the frame
-- Returns: {0, seq} appended; {1, seq, ms} the id was used in the last two minutes, first by the
-- entry with that seq, appended at that time; {2} the session has no live lease here; {3} no
-- such room.
local epoch = ARGV[2]
if ARGV[3] ~= '' then
  local lease = call('ZSCORE', KEYS[3], ARGV[3])
  if not lease or tonumber(lease) <= now then return {2} end
else
  epoch = call('HGET', KEYS[1], 'epoch')
  if not epoch then return {3} end
end

-- An id's value is seq:appended, or seq:appended:used once it was used again.
local id = ARGV[4]
local period = (now - now % ID_AGE) / ID_AGE
local ids, older = KEYS[4 + period % 2], KEYS[5 - period % 2]

local function remember(write, value)
  if type(write('HSET', ids, id, value)) == 'table' then return end -- an error of pcall
  -- Expire the hash before the period comes that uses this key again. Usually the expiry is
  -- already set, and checking that is cheaper than setting it again.
  local gone = (period + 2) * ID_AGE
  if call('PEXPIRETIME', ids) ~= gone then call('PEXPIREAT', ids, string.format(MS, gone)) end
end

if id ~= '' then
  local known = call('HGET', ids, id) or call('HGET', older, id)
  if known then
    local seq, at, used = string.match(known, '^(%d+):(%d+):?(%d*)$')
    if tonumber(used ~= '' and used or at) > now - ID_AGE then
      remember(redis.pcall, seq .. ':' .. at .. ':' .. NOW) -- a full Redis refuses it, and still answers
      return {1, tonumber(seq), tonumber(at)}
    end
  end
end

local seq = entry(KEYS[1], KEYS[2], ARGV[1], epoch, 'm', 'MESSAGE', ARGV[5])
if not seq then -- the room's key was deleted by hand, but not its leases
  call('ZREM', KEYS[3], ARGV[3])
  return {2}
end
if id ~= '' then remember(call, seq .. ':' .. NOW) end
return {0, tonumber(seq)}
