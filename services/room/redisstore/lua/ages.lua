-- How often the reaper looks a room through, in ms.
local LOOK = LOG_AGE / 2
-- How long the partition remembers the sessions that ended, in ms.
local SPENT_AGE = 120000
