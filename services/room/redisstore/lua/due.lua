-- Finds the rooms of a partition that want a visit of the reaper: up to 100 in which a lease
-- has ended, and up to 100 that are due.
--
-- Of the leases that have ended it looks at the first 250, and where there are so many, also
-- at the last 50: those of a room that cannot be visited stay in front.
--
-- A due room is put off, which costs a fifth of a visit, where a visit would change nothing:
-- somebody sits in it or holds a permit, no permit has lapsed, and it is not time to look it
-- through (expire.lua).
-- KEYS: 1 due  2 leases; those of the rooms have the same hash tag
-- Answers {1 if more rooms may want a visit, else 0, id, sessions, id, sessions …} of rooms
-- that want a visit, with those of their sessions whose leases were seen to have ended, a
-- space between them.
local DUE, LEASES = KEYS[1], KEYS[2]

-- Nearly always, there is nothing to do.
if call('ZCOUNT', LEASES, '-inf', NOW) == 0 and call('ZCOUNT', DUE, '-inf', NOW) == 0 then return {0} end

local ROOMS = string.sub(DUE, 1, -4) .. 'r:'

local wanted, sessions = {}, {} -- ids; by id
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
    call('ZREM', LEASES, name) -- no script wrote it
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

-- A key of a wrong type is for the visit to fail at: here, it would stop those of all rooms.
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
