-- Finds the rooms of a partition that need a visit by the reaper: up to 100 in which a lease
-- has ended, and up to 100 that are due.
--
-- Of the leases that have ended it looks at the first 250. If there are that many, it also
-- looks at the last 50, because the leases of a room whose visits fail stay at the front.
--
-- A due room is put off if a visit would change nothing: somebody has a seat or a permit, no
-- permit has lapsed, and it is not time to look the room through (expire.lua). Putting it off
-- costs a fifth of a visit.
-- KEYS: 1 due  2 leases; the rooms' own keys have the same hash tag
-- Returns: {1 if more rooms may need a visit, else 0, id, sessions, id, sessions …} of the
-- rooms that need a visit, each with those of its sessions whose leases were found to have
-- ended, separated by spaces.
local DUE, LEASES = KEYS[1], KEYS[2]

-- Usually there is nothing to do.
if call('ZCOUNT', LEASES, '-inf', NOW) == 0 and call('ZCOUNT', DUE, '-inf', NOW) == 0 then return {0} end

local ROOMS = string.sub(DUE, 1, -4) .. 'r:'

local wanted, sessions = {}, {} -- ids of rooms; their ended sessions, by id
local function want(id)
  if sessions[id] then return end
  wanted[#wanted + 1] = id
  sessions[id] = {}
end

local seen = {}
local function ended(name)
  if seen[name] then return end
  seen[name] = true
  local id, session = string.match(name, '^([^ ]+) ([^ ]+)$')
  if not id then
    call('ZREM', LEASES, name) -- no script has written it
  elseif sessions[id] or #wanted < 100 then
    want(id)
    table.insert(sessions[id], session)
  end
end
local first = call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', '0', '250')
for _, name in ipairs(first) do ended(name) end
if #first == 250 then
  for _, name in ipairs(call('ZREVRANGEBYSCORE', LEASES, NOW, '-inf', 'LIMIT', '0', '50')) do ended(name) end
end

-- A key of a wrong type must fail only when its room is visited. Here, an error would prevent
-- the visits to all rooms.
local due = call('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', '0', '100')
local more = #due == 100 or #first == 250 or #wanted == 100
local again = {} -- scores and ids
for _, id in ipairs(due) do
  local room = ROOMS .. id .. ':'
  local look = tonumber(redis.pcall('HGET', room .. 'room', 'look')) or 0
  local first = redis.pcall('ZRANGE', room .. 'permits', '0', '0', 'WITHSCORES')
  local lapses = first.err and 0 or tonumber(first[2]) or math.huge
  local seats = redis.pcall('HLEN', room .. 'sessions')
  if now < look and look <= now + LOOK and now < lapses and (lapses < math.huge or tonumber(seats) ~= 0) then
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

local answer = {more and 1 or 0}
for _, id in ipairs(wanted) do
  answer[#answer + 1] = id
  answer[#answer + 1] = table.concat(sessions[id], ' ')
end
return answer
