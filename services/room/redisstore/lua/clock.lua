-- Stands in front of every script. The time is Redis' own, in ms.
local call = redis.call
local MS = '%.0f'
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local NOW = string.format(MS, now)
-- How long an entry of the log is read, ms.
local AGE = 600000
-- How often the reaper looks a room through, ms.
local LOOK = AGE / 2
