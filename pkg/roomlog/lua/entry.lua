-- Shared by every script that appends to a room's log. Needs clock.lua before it.

-- rfc3339(s, ms): formats a time as frames have it. s is in seconds; ms is the milliseconds,
-- as three digits. The date is computed from the days by H. Hinnant's civil-from-days, since
-- scripts have no os.date. x - x % 1 is the integer part of x; string.format truncates by
-- itself.
local function rfc3339(s, ms)
  local z = (s - s % 86400) / 86400 + 719468
  local doe = z % 146097
  local yoe = (doe - (doe - doe % 1460) / 1460 + (doe - doe % 36524) / 36524 - (doe - doe % 146096) / 146096) / 365
  yoe = yoe - yoe % 1
  local doy = doe - (365 * yoe + (yoe - yoe % 4) / 4 - (yoe - yoe % 100) / 100)
  local mp = (5 * doy + 2) / 153
  mp = mp - mp % 1
  local days = (153 * mp + 2) / 5 -- days in the months before this one
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + (z - doe) / 146097 * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%sZ', year, month, doy - (days - days % 1) + 1,
    s % 86400 / 3600, s % 3600 / 60, s % 60, ms)
end

-- The script's time as frames have it; set when it is first needed.
local stamp

-- entry(room, log, channel, epoch, kind, type, tail): appends one entry and publishes it.
-- Returns its seq as text, or nil if there is no such room. tail is the part of the frame's
-- JSON that follows "time".
local function entry(room, log, channel, epoch, kind, type, tail)
  local seq = string.format('%d', call('HINCRBY', room, 'seq', '1'))
  if seq == '1' and call('HEXISTS', room, 'epoch') == 0 then
    call('DEL', room)
    return
  end
  stamp = stamp or rfc3339(clock[1], millis)
  local frame = '{"type":"' .. type .. '","seq":' .. seq .. ',"time":"' .. stamp .. '"' .. tail
  call('XADD', log, 'MAXLEN', '~', LOG_ENTRIES, seq .. '-' .. NOW, 'f', frame)
  if seq == '1' then call('EXPIRE', log, KEY_LIFE) end -- the reaper's visits renew it
  call('PUBLISH', channel, kind .. ' ' .. epoch .. ' ' .. seq .. ' ' .. frame)
  return seq
end
