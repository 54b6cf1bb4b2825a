-- One key's count in a fleet's quota: counts, gives back and leases requests of a period, in one step. See mod.rs.
-- KEYS[1]: by the second at which a period begins: how many are counted, by what nodes knew and what was counted since; when this life of
--   the count began; how many are counted for all nodes together; and the second at which it may go. By that and a node's name: how many
--   are counted for that node, in which life, and the second. Under `first`, when the key's first period in the plan began.
-- ARGV: how many there are; to count (less than nothing: to give back); wanted; how many the node knows of; the life in which it was
--   told so (0: in none); 1 where the store was lost since; the second (since 1970) at which the period begins; that at which its count may go; for how
--   many seconds the key is kept for the sake of `first`; so many less in the first period; 0 where the node knows of an earlier one; the
--   node's name (none: it has no name); how many it has let pass in the period, without those to count (none: it cannot say so yet).
-- Gives how many were leased, how many are counted or leased then, the life, and 1 in the first period.
local time = redis.call('TIME')
local now, begins, known = tonumber(time[1]), tonumber(ARGV[7]), tonumber(ARGV[4])
local kept = redis.call('HGET', KEYS[1], ARGV[7])
local said, life, sum = string.match(kept or '', '^(%S+) (%S+) (%S+) %S+$')
said, sum = tonumber(said) or 0, tonumber(sum) or 0
if not life then
  life, said = string.format('%.0f', (now - 1767225600) * 1000000 + time[2]), known
  local all = redis.call('HGETALL', KEYS[1])
  for place = 1, #all, 2 do
    local goes = tonumber(string.match(all[place + 1], ' (%S+)$'))
    if goes and goes < now then redis.call('HDEL', KEYS[1], all[place]) end
  end
elseif life ~= ARGV[5] or ARGV[6] == '1' then
  -- This store, or another one, has told the node so. It may have come back as it was a while ago.
  said = math.max(said, known)
end
-- What a node has let pass beyond what is counted for it: by itself, by another store, or before it was killed.
local place, own = ARGV[7] .. ' ' .. ARGV[12], tonumber(ARGV[13])
local of_life, counted = string.match(redis.call('HGET', KEYS[1], place) or '', '^(%S+) (%S+) %S+$')
counted = of_life == life and tonumber(counted) or 0
if own and own > counted then
  sum, counted = sum + own - counted, own
end
local first = tonumber(redis.call('HGET', KEYS[1], 'first') or '')
local is_later = ARGV[11] == '0' and not (first and first < begins)
if is_later or not first then
  first = is_later and begins - 1 or begins
  redis.call('HSET', KEYS[1], 'first', string.format('%.0f', first))
end
local is_first = begins <= first
local there = tonumber(ARGV[1]) - (is_first and tonumber(ARGV[10]) or 0)
local charge = tonumber(ARGV[2])
local leased = math.min(math.max(0, there - math.max(said, sum) - charge), tonumber(ARGV[3]))
local more = charge + leased
said, sum, counted = math.max(0, said + more), math.max(0, sum + more), math.max(0, counted + more)
redis.call('HSET', KEYS[1], ARGV[7], string.format('%.0f %s %.0f %s', said, life, sum, ARGV[8]))
if ARGV[12] ~= '' then
  redis.call('HSET', KEYS[1], place, string.format('%s %.0f %s', life, counted, ARGV[8]))
end
redis.call('EXPIREAT', KEYS[1], string.format('%.0f', math.max(tonumber(ARGV[8]), now + tonumber(ARGV[9]))))
return {leased, math.max(said, sum), tonumber(life), is_first and 1 or 0}
