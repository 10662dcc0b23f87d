-- Looks at up to 100 rooms of a partition that are due, and at up to 100 leases that have
-- ended. Where somebody sits in a due room, no permit has lapsed, as when all were confirmed,
-- and it is not time to look the room through (expire.lua), it is put off until one of that
-- comes: that costs a fifth of a visit.
-- KEYS: 1 due  2 leases; those of the rooms have the same hash tag
-- Answers {1 if more rooms may want a visit, else 0, id, id …} of rooms that want a visit.
local DUE, LEASES = KEYS[1], KEYS[2]
local ROOMS = string.sub(DUE, 1, -4) .. 'r:'

local due = call('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', '0', '100')
local ended = call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', '0', '100')
local answer = {(#due == 100 or #ended == 100) and 1 or 0}
local wanted = {}
local function want(id)
  if not wanted[id] then answer[#answer + 1] = id end
  wanted[id] = true
end

-- A key of a wrong type is for the visit to fail at: here, it would stop those of all rooms.
for _, name in ipairs(ended) do
  local id, session = string.match(name, '^([^ ]*) ?(.*)$')
  -- None of a seat is left by scripts, but by whoever deletes a room by hand.
  if redis.pcall('HEXISTS', ROOMS .. id .. ':sessions', session) == 0 then call('ZREM', LEASES, name) else want(id) end
end

local again = {} -- scores and ids
for _, id in ipairs(due) do
  local room = ROOMS .. id .. ':'
  local look = tonumber(redis.pcall('HGET', room .. 'room', 'look')) or 0
  local first = redis.pcall('ZRANGE', room .. 'permits', '0', '0', 'WITHSCORES')
  local lapses = first.err and 0 or tonumber(first[2]) or math.huge
  local sessions = redis.pcall('HLEN', room .. 'sessions')
  if now < look and look <= now + LOOK and now < lapses and (lapses < math.huge or tonumber(sessions) ~= 0) then
    again[#again + 1] = string.format(MS, math.min(look, lapses))
    again[#again + 1] = id
  else
    want(id)
  end
end
if again[1] then
  -- A full Redis refuses a script whose first write is ZADD. This one removes nothing.
  call('ZREM', DUE, '')
  call('ZADD', DUE, unpack(again))
end
return answer
