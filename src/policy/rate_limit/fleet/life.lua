-- Since when the store has its memory. KEYS[1]: that, in microseconds of its own clock since 2026.
-- ARGV: after how many milliseconds in which nobody asks it need not be known any more.
local life = redis.call('GET', KEYS[1])
if not life then
  local time = redis.call('TIME')
  life = string.format('%.0f', (time[1] - 1767225600) * 1000000 + time[2])
  redis.call('SET', KEYS[1], life)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {tonumber(life) or 0}
