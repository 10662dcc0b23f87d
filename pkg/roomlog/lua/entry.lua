-- Shared by every script that appends to a room's log.

-- rfc3339(ms): the time as frames write it. Days to a date by H. Hinnant's
-- civil-from-days, since scripts have no os.date.
local function rfc3339(ms)
  local s = math.floor(ms / 1000)
  local days = math.floor(s / 86400)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local r = s - days * 86400
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(r / 3600), math.floor(r / 60) % 60, r % 60, ms % 1000)
end

-- entry(room, log, channel, epoch, now, kind, type, tail): appends one entry and
-- publishes it; answers with its seq. tail is the frame's JSON behind "time".
local function entry(room, log, channel, epoch, now, kind, type, tail)
  local seq = redis.call('HINCRBY', room, 'seq', 1)
  local frame = '{"type":"' .. type .. '","seq":' .. seq .. ',"time":"' .. rfc3339(now) .. '"' .. tail
  redis.call('XADD', log, 'MAXLEN', '~', 1000, seq .. '-' .. string.format('%.0f', now), 'f', frame)
  -- An hour past the longest time that a room may be empty; the reaper's visits renew it.
  if seq == 1 then redis.call('EXPIRE', log, 90000) end
  redis.call('PUBLISH', channel, kind .. ' ' .. epoch .. ' ' .. seq .. ' ' .. frame)
  return seq
end
