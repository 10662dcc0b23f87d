-- Begins every script, after the limits (log.go). Defines call, and the time by Redis' clock in
-- ms, as a number (now) and as text (NOW). Redis' Lua converts numbers to text through floating
-- point, at about a microsecond each, so scripts pass text to calls where they can. MS is the
-- format for other times.
local call = redis.call
local MS = '%.0f'
local clock = call('TIME')
local millis = string.format('%03d', clock[2] / 1000)
local NOW = clock[1] .. millis
local now = tonumber(NOW)
