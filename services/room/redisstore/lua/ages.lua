-- Of a room, ms: how long an entry of its log is read,
local AGE = 600000
-- and how often the reaper looks it through.
local LOOK = AGE / 2
