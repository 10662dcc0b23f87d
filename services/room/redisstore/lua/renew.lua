-- Renews the leases of many sessions, of rooms of one partition.
-- KEYS: the leases of each room
-- ARGV: 1 lease, ms; then for each room: number of its sessions, and they
-- Answers the positions in ARGV of sessions that hold no live lease.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local deadline = string.format('%.0f', now + tonumber(ARGV[1]))
local lost = {}
local at = 2
for _, leases in ipairs(KEYS) do
  local n = tonumber(ARGV[at])
  -- Each on its own: a lease that has ended must stay ended, though the seat may
  -- not have been freed yet.
  for i = at + 1, at + n do
    local ends = redis.call('ZSCORE', leases, ARGV[i])
    if ends and tonumber(ends) > now then
      redis.call('ZADD', leases, 'XX', deadline, ARGV[i])
    else
      lost[#lost + 1] = i
    end
  end
  at = at + n + 1
end
return lost
