-- One period of a fleet's quota: counts, gives back and leases requests, in one step. See mod.rs.
-- KEYS[1]: how many were counted or leased.
-- ARGV: how many there are; to count (less than nothing: to give back); wanted; the second (since 1970) at which the key may go.
-- Gives how many were leased, and how many are counted or leased then.
local used = math.max(0, (tonumber(redis.call('GET', KEYS[1])) or 0) + tonumber(ARGV[2]))
local leased = math.min(math.max(0, tonumber(ARGV[1]) - used), tonumber(ARGV[3]))
used = used + leased
redis.call('SET', KEYS[1], string.format('%.0f', used))
redis.call('EXPIREAT', KEYS[1], ARGV[4])
return {leased, used}
