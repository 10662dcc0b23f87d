-- Reads a range of a room's log, as far as history reaches.
-- KEYS: 1 room  2 log  3 sessions
-- ARGV: 1 first seq  2 last seq (0: to the end)  3 limit for the size of all frames, in bytes
--       (0: none); the entry that reaches it is the last one returned
-- Returns: {epoch, last seq of the room, occupied, entry id, frame, entry id, frame …}, or {}
-- if there is no room.
local head = call('HMGET', KEYS[1], 'epoch', 'seq')
if not head[1] then return {} end
local oldest = now - LOG_AGE
local last = tonumber(head[2])
local from = math.max(tonumber(ARGV[1]), last - LOG_ENTRIES + 1, 1)
local to = tonumber(ARGV[2])
if to == 0 or to > last then to = last end

local answer = {head[1], last, call('HLEN', KEYS[3])}
if from > to then return answer end
local left = tonumber(ARGV[3])
if left == 0 then left = math.huge end
while from <= to and left > 0 do
  -- In small chunks: most of a page of large entries would be read for nothing.
  local chunk = call('XRANGE', KEYS[2], from, to, 'COUNT', 64)
  if not chunk[1] then break end
  for _, e in ipairs(chunk) do
    local seq, at = string.match(e[1], '^(%d+)%-(%d+)$')
    from = tonumber(seq) + 1
    -- Old entries are left out only at the beginning. If the clock was set back, an entry in
    -- the middle could look older than its neighbours, and leaving it out would make a hole.
    if #answer > 3 or tonumber(at) >= oldest then
      answer[#answer + 1] = e[1]
      answer[#answer + 1] = e[2][2]
      left = left - #e[2][2]
      if left <= 0 then break end
    end
  end
end
return answer
