-- Remembers that a version of a caller was active. KEYS[1]: a sorted set with the time in milliseconds of each version.
-- ARGV: the version, the milliseconds for which it is remembered, the time if it is virtual, otherwise ''.
local version, lasts, at = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local virtual = at ~= nil
if not virtual then
  local time = redis.call('TIME')
  at = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local known = redis.call('TYPE', KEYS[1]).ok
if known ~= 'zset' and known ~= 'none' then redis.call('DEL', KEYS[1]) end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[1] then at = math.max(at, tonumber(last[2]) + (last[1] == version and 0 or 1)) end
redis.call('ZADD', KEYS[1], string.format('%d', at), version)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', at - lasts))
if not virtual then redis.call('PEXPIRE', KEYS[1], string.format('%d', lasts)) end
