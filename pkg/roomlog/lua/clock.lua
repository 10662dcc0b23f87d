-- Stands in front of every script: call, and the time, which is Redis' own, in ms: now,
-- and NOW as text. Redis' Lua prints numbers by way of floating point, for about a
-- microsecond each, so scripts give calls text where they can. MS prints other times.
local call = redis.call
local MS = '%.0f'
local clock = call('TIME')
local millis = string.format('%03d', clock[2] / 1000)
local NOW = clock[1] .. millis
local now = tonumber(NOW)
