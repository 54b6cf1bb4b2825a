-- Who is there. KEYS[1]: processes of nodes, by the milliseconds of the store's own clock at which they were last heard of.
-- ARGV: this one, `node:process`; after how many milliseconds one that is not heard of has gone; 'stay' or 'leave'; after how many one of
--   the same node has.
-- Gives how many there are.
local time = redis.call('TIME')
local now, gone = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.17g', now - gone))
-- The clock was set back.
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.17g', now + gone), '+inf')
-- One that was killed, and is there again, is one.
local node = string.match(ARGV[1], '^[^:]*:')
for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.17g', now - ARGV[4]))) do
  if node and string.sub(other, 1, #node) == node then redis.call('ZREM', KEYS[1], other) end
end
if ARGV[3] == 'leave' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], string.format('%.17g', now), ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], 2 * gone)
return {redis.call('ZCARD', KEYS[1])}
