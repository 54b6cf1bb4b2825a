-- One key's count in a fleet's quota: counts, gives back and leases requests of a period, in one step. See mod.rs.
-- KEYS[1]: by the second at which a period begins: how many were counted or leased; when this life of the count began; how many nodes
--   knew of from an earlier life; how many of an earlier life, or of another store, they have let pass, all together; and the second
--   at which it may go. By that and a node's name: how many are counted for the node, in which life; whether those are among them that it
--   let pass before (1 or 0); and the second.
--   Under `first`, when the key's first period in the plan began.
-- ARGV: how many there are; to count (less than nothing: to give back); wanted; how many the node knows of; the life in which it was
--   told so (0: in none); 1 where the store was lost since; the second (since 1970) at which the period begins; that at which its count may go; for how
--   many seconds the key is kept for the sake of `first`; so many less in the first period; 0 where the node knows of an earlier one; the
--   node's name (none: it has no name); how many it has let pass in the period, without those to count (none: it cannot say so yet).
-- Gives how many were leased, how many are counted or leased then, the life, and 1 in the first period.
local time = redis.call('TIME')
local now, begins, known = tonumber(time[1]), tonumber(ARGV[7]), tonumber(ARGV[4])
local kept = redis.call('HGET', KEYS[1], ARGV[7])
local used, life, said, passed = string.match(kept or '', '^(%S+) (%S+) (%S+) (%S+) %S+$')
used, said, passed = tonumber(used) or 0, tonumber(said) or 0, tonumber(passed) or 0
if not life then
  life, used, said = string.format('%.0f', (now - 1767225600) * 1000000 + time[2]), known, known
  local all = redis.call('HGETALL', KEYS[1])
  for place = 1, #all, 2 do
    local goes = tonumber(string.match(all[place + 1], ' (%S+)$'))
    if goes and goes < now then redis.call('HDEL', KEYS[1], all[place]) end
  end
elseif life ~= ARGV[5] and ARGV[5] ~= '0' then
  -- All nodes know of the same count, so it counts once; what was counted since comes on top of it.
  local before = math.max(said, passed)
  said = math.max(said, known)
  used = used + math.max(said, passed) - before
elseif ARGV[5] == '0' or ARGV[6] == '1' then
  used = math.max(used, known)
end
local place, own = ARGV[7] .. ' ' .. ARGV[12], tonumber(ARGV[13])
local of_life, counted, heard = string.match(redis.call('HGET', KEYS[1], place) or '', '^(%S+) (%S+) (%S+) %S+$')
if of_life ~= life then counted, heard = 0, '0' end
counted = tonumber(counted)
if own and heard == '0' then
  -- What each has let pass by itself, or by another store, counts once too: it is a part of what all know of, if they do.
  local before = math.max(said, passed)
  passed = passed + own
  used = used + math.max(said, passed) - before
  counted, heard = counted + own, '1'
elseif own and own > counted then
  -- More than is counted for it: alone, and it was killed before it could say so, or while each node counted by itself.
  used, counted = used + own - counted, own
end
local first = tonumber(redis.call('HGET', KEYS[1], 'first') or '')
local is_later = ARGV[11] == '0' and not (first and first < begins)
if is_later or not first then
  first = is_later and begins - 1 or begins
  redis.call('HSET', KEYS[1], 'first', string.format('%.0f', first))
end
local is_first = begins <= first
local there = tonumber(ARGV[1]) - (is_first and tonumber(ARGV[10]) or 0)
used = math.max(0, used + tonumber(ARGV[2]))
local leased = math.min(math.max(0, there - used), tonumber(ARGV[3]))
used = used + leased
if ARGV[12] ~= '' then
  counted = math.max(0, counted + tonumber(ARGV[2]) + leased)
  redis.call('HSET', KEYS[1], place, string.format('%s %.0f %s %s', life, counted, heard, ARGV[8]))
end
redis.call('HSET', KEYS[1], ARGV[7], string.format('%.0f %s %.0f %.0f %s', used, life, said, passed, ARGV[8]))
redis.call('EXPIREAT', KEYS[1], string.format('%.0f', math.max(tonumber(ARGV[8]), now + tonumber(ARGV[9]))))
return {leased, used, tonumber(life), is_first and 1 or 0}
