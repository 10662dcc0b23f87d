-- How long an entry of a room's log is read, ms.
local AGE = 600000
-- How often the reaper looks a room through, ms.
local LOOK = AGE / 2
