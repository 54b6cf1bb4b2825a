-- One period of a fleet's quota: counts, gives back and leases requests, in one step. See mod.rs.
-- KEYS[1]: how many were counted or leased; when this life of the key began; and how many nodes knew of from an earlier life.
-- ARGV: how many there are; to count (less than nothing: to give back); wanted; the second (since 1970) at which the key may go;
--   how many the node knows of; the life in which it was told so; 1 where the store was lost since.
-- Gives how many were leased, how many are counted or leased then, and the key's life.
local time = redis.call('TIME')
local used, life, said = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%S+) (%S+)$')
local known = tonumber(ARGV[5])
used, said = tonumber(used) or 0, tonumber(said) or 0
if not life then
  life, used, said = string.format('%.0f', (time[1] - 1767225600) * 1000000 + time[2]), known, known
elseif life ~= ARGV[6] then
  used, said = used + math.max(0, known - said), math.max(said, known)
elseif ARGV[7] == '1' then
  used = math.max(used, known)
end
used = math.max(0, used + tonumber(ARGV[2]))
local leased = math.min(math.max(0, tonumber(ARGV[1]) - used), tonumber(ARGV[3]))
used = used + leased
redis.call('SET', KEYS[1], string.format('%.0f %s %.0f', used, life, said))
redis.call('EXPIREAT', KEYS[1], ARGV[4])
return {leased, used, tonumber(life)}
