-- Reads a range of a room's log, as far as history reaches.
-- KEYS: 1 room  2 log  3 sessions
-- ARGV: 1 first seq  2 last seq (0: to the end)  3 bytes of frames, of which the entry
--       that reaches them is the last to come (0: no limit)
-- Answers {epoch, last seq of the room, occupied, entry id, frame, entry id, frame …}
-- or {} where there is no room.
local head = call('HMGET', KEYS[1], 'epoch', 'seq')
if not head[1] then return {} end
local oldest = now - 600000
local last = tonumber(head[2])
local from = math.max(tonumber(ARGV[1]), last - 999, 1)
local to = tonumber(ARGV[2])
if to == 0 or to > last then to = last end

local answer = {head[1], last, call('HLEN', KEYS[3])}
if from > to then return answer end
local left = tonumber(ARGV[3])
if left == 0 then left = math.huge end
while from <= to and left > 0 do
  -- A few at a time: of a page of large entries, most would be read in vain.
  local chunk = call('XRANGE', KEYS[2], from, to, 'COUNT', 64)
  if not chunk[1] then break end
  for _, e in ipairs(chunk) do
    local seq, at = string.match(e[1], '^(%d+)%-(%d+)$')
    from = tonumber(seq) + 1
    -- Only the head is left out: were the clock set back, an entry in the middle could
    -- look older than its neighbours, and leaving it out would make a hole.
    if #answer > 3 or tonumber(at) >= oldest then
      answer[#answer + 1] = e[1]
      answer[#answer + 1] = e[2][2]
      left = left - #e[2][2]
      if left <= 0 then break end
    end
  end
end
return answer
