-- One bucket of a fleet's limit: charges, gives back and leases tokens, in one step. See mod.rs.
-- KEYS[1]: when the bucket is full, in microseconds of the store's own clock since 2026.
-- ARGV: microseconds a token; tokens of a full bucket; tokens to charge (less than nothing: to give back); tokens wanted.
-- Gives how many were leased, and the microseconds until the bucket is full.
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local token, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = token * burst
-- A bucket owes two of its size at the most: so a clock that was set back blocks nobody for longer.
local function bounded(debt) return math.max(0, math.min(debt, 2 * full)) end
local debt = bounded((tonumber(redis.call('GET', KEYS[1])) or now) - now)
debt = bounded(debt + token * tonumber(ARGV[3]))
-- Half a microsecond for what floating point leaves of a whole token.
local left = math.max(0, math.floor((full - debt + 0.5) / token))
local leased = math.min(left, tonumber(ARGV[4]))
debt = bounded(debt + token * leased)
if debt > 0 then
  redis.call('SET', KEYS[1], string.format('%.17g', now + debt), 'PX', math.ceil(debt / 1000) + 1000)
else
  redis.call('DEL', KEYS[1])
end
return {leased, math.floor(debt)}
