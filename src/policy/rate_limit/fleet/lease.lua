-- One bucket of a fleet's limit: charges, gives back and leases tokens, in one step. See mod.rs.
-- KEYS[1]: when the bucket is full, in microseconds of the store's own clock since 2026; when its life began; what nodes
--   knew it to owe from an earlier life, as the time at which that is over; and the limit by which these times are: microseconds a
--   token, and tokens of a full bucket. Under another limit it owes as large a part of the bucket.
-- ARGV: microseconds a token; tokens of a full bucket; tokens to charge (less than nothing: to give back); tokens wanted;
--   the microseconds that the node knows it to owe; the life in which it was told so (0: in none); 1 where the store was lost since.
-- Gives how many were leased, the microseconds until the bucket is full, and its life.
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local token, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = token * burst
-- A bucket owes two of its size at the most: so a clock that was set back blocks nobody for longer.
local function bounded(debt) return math.max(0, math.min(debt, 2 * full)) end
local kept = redis.call('GET', KEYS[1])
local full_at, life, said, kept_token, kept_burst = string.match(kept or '', '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
local kept_full = (tonumber(kept_token) or token) * (tonumber(kept_burst) or burst)
local part = (kept_full > 0 and full > 0) and full / kept_full or 1
local debt, known = bounded(((tonumber(full_at) or now) - now) * part), bounded(tonumber(ARGV[5]))
said = bounded(((tonumber(said) or now) - now) * part)
if not life then
  -- The key outlives all that anybody was told of it: it was lost, or nobody knows of any debt.
  life, debt, said = string.format('%.0f', now), known, known
elseif life ~= ARGV[6] and tonumber(ARGV[6]) > tonumber(life) then
  -- Another store has told it since: what is owed here is a part of that.
  debt = math.max(debt, known)
elseif life ~= ARGV[6] and ARGV[6] ~= '0' then
  -- All nodes know of the same debt, so it counts once; what was charged since comes on top of it.
  debt, said = bounded(debt + math.max(0, known - said)), math.max(said, known)
elseif ARGV[6] == '0' or ARGV[7] == '1' then
  -- The store may have come back as it was a while ago, or may not have heard what it was told.
  debt = math.max(debt, known)
end
debt = bounded(debt + token * tonumber(ARGV[3]))
-- Half a microsecond for what floating point leaves of a whole token.
local left = math.max(0, math.floor((full - debt + 0.5) / token))
local leased = math.min(left, tonumber(ARGV[4]))
debt = bounded(debt + token * leased)
if kept or debt > 0 then
  local lives = math.max(kept and redis.call('PTTL', KEYS[1]) or 0, math.ceil(debt / 1000) + 1000)
  local value = string.format('%.17g %s %.17g %s %s', now + debt, life, now + said, ARGV[1], ARGV[2])
  redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', lives))
end
return {leased, math.floor(debt), tonumber(life)}
