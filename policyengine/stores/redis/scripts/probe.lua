-- Writes to a key as decisions do, and returns the eviction policy of the server.
-- KEYS[1]: the key. ARGV[1]: the milliseconds after which it expires. Returns the time of the server (seconds and
-- microseconds), its maximum memory in bytes (0: no limit), and its policy.
local time = redis.call('TIME')
redis.call('SET', KEYS[1], time[1], 'PX', ARGV[1])
local memory = redis.call('INFO', 'memory')
local most, rule = string.match(memory, 'maxmemory:(%d+)'), string.match(memory, 'maxmemory_policy:([%w-]+)')
return {time[1], time[2], most or '0', rule or ''}
