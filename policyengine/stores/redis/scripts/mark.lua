-- Marks and revocations of credentials: names with an end, in seconds by the clock of the caller. KEYS: one for each
-- name. ARGV: the operation, now, the end, the milliseconds after which this server may delete a name. `once` returns 1
-- if the name was unmarked, `marked` returns 1 if it is marked, otherwise both return 0; `revoked` returns the indexes
-- of the revoked names. Every answer contains the time of this server.
local what, now, till, lasts = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local time = redis.call('TIME')

local function answer(told)
  return {told, time[1], time[2]}
end

local function ends(key)
  return tonumber(redis.call('GET', key) or 0)
end

if what == 'once' then
  if ends(KEYS[1]) > now then return answer(0) end
  redis.call('SET', KEYS[1], till, 'PX', lasts)
  return answer(1)
end
if what == 'marked' then return answer(ends(KEYS[1]) > now and 1 or 0) end
if what == 'revoke' then
  for _, key in ipairs(KEYS) do
    if ends(key) < tonumber(till) then redis.call('SET', key, till, 'PX', lasts) end
  end
  return answer(1)
end
local found = {}
for place, till in ipairs(redis.call('MGET', unpack(KEYS))) do
  if tonumber(till or 0) > now then found[#found + 1] = place end
end
return answer(found)
