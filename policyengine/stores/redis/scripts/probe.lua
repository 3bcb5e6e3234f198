-- Writes as decisions do, under a key of its own, and tells by what rule this server throws away what was written.
-- KEYS[1]: that key. ARGV[1]: milliseconds that it lasts. It answers its time, how much memory it may use, and the rule.
local time = redis.call('TIME')
redis.call('SET', KEYS[1], time[1], 'PX', ARGV[1])
local memory = redis.call('INFO', 'memory')
local most, rule = string.match(memory, 'maxmemory:(%d+)'), string.match(memory, 'maxmemory_policy:([%w-]+)')
return {time[1], time[2], most or '0', rule or ''}
