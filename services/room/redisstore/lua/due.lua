-- Looks at up to 100 rooms of a partition that are due. Where no permit and no lease has
-- ended, as in most, and it is not time to look the room through (expire.lua), it is due
-- again when the first of them ends: that costs a fifth of a visit.
-- KEYS: 1 due; those of the rooms have the same hash tag
-- Answers {1 if more rooms may be due, else 0, id, id …} of rooms that want a visit.
local DUE = KEYS[1]
local ROOMS = string.sub(DUE, 1, -4) .. 'r:'

local due = call('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', '0', '100')

-- first(key): when the first of a set of holders loses its hold. A key that is no such set
-- is for the visit to fail at: here, it would stop those of all rooms.
local function first(key)
  local holder = redis.pcall('ZRANGE', key, '0', '0', 'WITHSCORES')
  return holder.err and 0 or tonumber(holder[2]) or math.huge
end

local answer = {#due == 100 and 1 or 0}
local again = {} -- scores and ids
for _, id in ipairs(due) do
  local room = ROOMS .. id .. ':'
  local look = tonumber(redis.pcall('HGET', room .. 'room', 'look')) or 0
  local ends = math.min(first(room .. 'permits'), first(room .. 'leases'))
  if now < look and look <= now + LOOK and now < ends and ends < math.huge then
    again[#again + 1] = string.format(MS, ends)
    again[#again + 1] = id
  else
    answer[#answer + 1] = id
  end
end
if again[1] then
  -- A full Redis refuses a script whose first write is ZADD. This one removes nothing.
  call('ZREM', DUE, '')
  call('ZADD', DUE, unpack(again))
end
return answer
