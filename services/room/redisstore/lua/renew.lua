-- Renews the leases of many sessions, of rooms of one partition.
-- KEYS: 1 due; then the leases of each room
-- ARGV: 1 lease, ms  2 its end at the latest, ms, or ''; then for each room: number of its
--       sessions (1 to 500), and they
-- Answers by how much the leases end sooner than a lease from now, ms, and behind it the
-- positions in ARGV of sessions that hold no live lease.
local DUE = KEYS[1]
local ends, latest = now + tonumber(ARGV[1]), tonumber(ARGV[2])
-- Held up, as in a Redis that stood still: who sent it may be dead by now.
local late = latest and latest < ends
local deadline = string.format(MS, late and latest or ends)

-- extend(leases, scores): answers how many it changed. A late call ends none sooner.
local function extend(leases, scores)
  if late then return call('ZADD', leases, 'XX', 'GT', 'CH', unpack(scores)) end
  return call('ZADD', leases, 'XX', 'CH', unpack(scores))
end

-- A lease that has ended must stay ended, though the seat may not be freed yet. Its room is
-- due by then, as few are at a time.
local due = call('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', '0', '100')
local ROOMS = string.sub(DUE, 1, -4) .. 'r:'
local suspect = {}
for _, id in ipairs(due) do suspect[ROOMS .. id .. ':leases'] = true end

local answer = {late and ends - latest or 0}
local at = 3
-- A full Redis refuses a script whose first write is ZADD, and every member would lose the
-- seat. This one removes nothing.
call('ZREM', DUE, '')
for i = 2, #KEYS do
  local leases = KEYS[i]
  local n = tonumber(ARGV[at])
  local renewed = {}
  for i = 1, n do
    renewed[2 * i - 1] = deadline
    renewed[2 * i] = ARGV[at + i]
  end
  -- Where none has ended, and all were renewed, there is no need to look at each: Redis
  -- takes long to print a deadline.
  local ended = (suspect[leases] or #due == 100) and call('ZCOUNT', leases, '-inf', NOW) > 0
  if ended or extend(leases, renewed) < n then
    renewed = {}
    for i, ends in ipairs(call('ZMSCORE', leases, unpack(ARGV, at + 1, at + n))) do
      if ends and tonumber(ends) > now then
        renewed[#renewed + 1] = deadline
        renewed[#renewed + 1] = ARGV[at + i]
      else
        answer[#answer + 1] = at + i
      end
    end
    if renewed[1] then extend(leases, renewed) end
  end
  at = at + n + 1
end
return answer
