-- Renews the leases of many sessions of one partition.
-- KEYS: 1 leases
-- ARGV: 1 duration of a lease, ms  2 latest end of a lease, ms, or ''
--       3… names of leases, up to 500
-- Returns: by how many ms the leases end earlier than a lease from now, followed by the
-- positions in ARGV of the leases that are no longer held.
local LEASES = KEYS[1]
local ends, latest = now + tonumber(ARGV[1]), tonumber(ARGV[2])
-- The call was held up, for example in a Redis that stood still, and its sender may be dead
-- by now.
local late = latest and latest < ends
local deadline = string.format(MS, late and latest or ends)

-- extend(scores): returns how many leases it changed. A late call shortens none.
local function extend(scores)
  if not scores[1] then return 0 end
  if late then return call('ZADD', LEASES, 'XX', 'GT', 'CH', unpack(scores)) end
  return call('ZADD', LEASES, 'XX', 'CH', unpack(scores))
end

-- A lease that has ended must stay ended, even if its seat has not been freed yet.
local ended = {}
local first = call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', '0', '100')
for _, name in ipairs(first) do ended[name] = true end

local answer = {late and ends - latest or 0}
local renewed = {}
for i = 3, #ARGV do
  if ended[ARGV[i]] then
    answer[#answer + 1] = i
  else
    renewed[#renewed + 1] = deadline
    renewed[#renewed + 1] = ARGV[i]
  end
end
-- A full Redis refuses a script whose first write is ZADD, and every member would lose the
-- seat. So write something first; this removes nothing.
call('ZREM', LEASES, '')
-- If all were renewed, there is no need to look at each: Redis takes long to format a
-- deadline.
if #first == 100 or extend(renewed) < #renewed / 2 then
  answer, renewed = {answer[1]}, {}
  for i, ends in ipairs(call('ZMSCORE', LEASES, unpack(ARGV, 3))) do
    if ends and tonumber(ends) > now then
      renewed[#renewed + 1] = deadline
      renewed[#renewed + 1] = ARGV[i + 2]
    else
      answer[#answer + 1] = i + 2
    end
  end
  extend(renewed)
end
return answer
