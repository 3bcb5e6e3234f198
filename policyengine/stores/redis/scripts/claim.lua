-- Claims an idempotency key of a gateway, stores its answer, or releases it.
-- KEYS[1]: a hash of digest and token and, after the decision, draft and settled. KEYS[2]: the keys of the gateway in
-- the slot, by time.
-- ARGV: the operation, the time (empty: the server's own), name, digest, token, the microseconds after which the key
-- expires, the microseconds for which an answer is kept, the maximum number of keys, draft, settled. If a test gives
-- the time, `until` holds the expiry, because the server does not know this time.
-- `claim` returns {digest, draft, settled} if another caller has the key, otherwise the number of evicted keys; its
-- draft is the draft that the caller may replace, or empty. `keep` and `release` return whether the caller had the key.
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
