-- Looks at up to 100 rooms of a partition that are due. Where no permit and no lease has
-- ended, as in most, and the room was looked through lately, it is due again when the first
-- of them ends: so that costs a fifth of a visit (expire.lua).
-- KEYS: 1 due; those of the rooms have the same hash tag
-- Answers {1 if more rooms may be due, else 0, id, id …} of rooms that want a visit.
local call = redis.call
local DUE = KEYS[1]
local ROOMS = string.sub(DUE, 1, -4) .. 'r:'
local MS = '%.0f'
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local due = call('ZRANGEBYSCORE', DUE, '-inf', string.format(MS, now), 'LIMIT', 0, 100)
-- A full Redis refuses a script whose first write is ZADD. This one removes nothing.
if due[1] then call('ZREM', DUE, '') end

-- first(key): when the first of a set of holders loses its hold.
local function first(key) return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or math.huge end

local answer = {#due == 100 and 1 or 0}
for _, id in ipairs(due) do
  local prefix = ROOMS .. id .. ':'
  local room = call('HMGET', prefix .. 'room', 'vacant', 'look')
  local vacant, look = room[1], tonumber(room[2]) or 0
  local ends = math.min(first(prefix .. 'permits'), first(prefix .. 'leases'))
  if now < look and now < ends and ends < math.huge and not vacant then
    call('ZADD', DUE, string.format(MS, ends), id)
  else
    answer[#answer + 1] = id
  end
end
return answer
