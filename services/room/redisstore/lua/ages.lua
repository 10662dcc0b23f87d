-- How long entries of a room's log can be read, in ms.
local AGE = 600000
-- How often the reaper looks a room through, in ms.
local LOOK = AGE / 2
