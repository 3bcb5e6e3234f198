-- A key by which a gateway asks once: claimed, kept with its answer, or released.
-- KEYS[1]: a hash of digest and token, and once it is decided draft and settled; KEYS[2]: the order of its gateway's keys in the slot.
-- ARGV: what to do, now (empty: the server's own), name, digest, token, microseconds that it lasts, those that an answer is
-- kept, the most of them, draft, settled. `until` is kept of times that a test gives: the server knows nothing of them.
-- `claim` answers {digest, draft, settled} if it is not the caller's, else how many were evicted; the others whether they did.
-- For `claim`, the draft is that of an answer that the caller may replace; empty if none.
local what, given, name, digest, token, lasts, kept, most, draft, settled = unpack(ARGV)
local now = tonumber(given)
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local one = redis.call('HMGET', KEYS[1], 'token', 'until', 'digest', 'draft', 'settled')
local there = one[1] and (not one[2] or tonumber(one[2]) > now)
local mine = one[1] == token and not one[4]

local function put(...)
  redis.call('HSET', KEYS[1], 'digest', digest, 'token', token, ...)
  if given ~= '' then return redis.call('HSET', KEYS[1], 'until', string.format('%d', now + lasts)) end
  return redis.call('PEXPIRE', KEYS[1], string.format('%d', lasts / 1000))
end

if what == 'release' then return mine and redis.call('DEL', KEYS[1]) or 0 end
if what == 'keep' then
  if mine then put('draft', draft, 'settled', settled) end
  return mine and 1 or 0
end

local replaced = draft ~= '' and one[4] == draft
if there and not mine and not replaced then return {one[3], one[4], one[5]} end
redis.call('DEL', KEYS[1])
put()
redis.call('ZADD', KEYS[2], now, name)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%d', now - kept))
if given == '' then redis.call('PEXPIRE', KEYS[2], string.format('%d', kept / 1000)) end
local evicted = 0
for _ = most + 1, redis.call('ZCARD', KEYS[2]) do
  local oldest = redis.call('ZPOPMIN', KEYS[2])[1]
  evicted = evicted + redis.call('DEL', KEYS[1]:sub(1, -#name - 1) .. oldest)
end
return evicted
