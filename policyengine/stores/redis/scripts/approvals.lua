-- Approvals. All keys begin with KEYS[1] and are in its slot: `id:ID` holds a row and the time until which it is live,
-- `of:BINDING` the id of the newest row of a binding, and `count:NAME` the ids that count in a quota, each with the
-- time until which it counts. Times are microseconds by the clock of the caller.
-- ARGV: the operation, the time, and the arguments of the operation. Every answer contains the time of this server.
local base, what, now = KEYS[1], ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')

local function answer(told)
  return {told, time[1], time[2]}
end

local function of_id(id)
  return base .. ':id:' .. id
end

local function of_count(name)
  return base .. ':count:' .. name
end

local function lengthen(key, lasts)
  if redis.call('PTTL', key) < lasts then redis.call('PEXPIRE', key, string.format('%.0f', lasts)) end
end

-- Stores a row until it ends, and counts it. Arguments from `at` on: binding, id, row, live, until, quotas.
local function keep(at)
  local binding, id, row, live, till = base .. ':of:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local lasts = math.max(1, math.ceil((tonumber(till) - now) / 1000))
  redis.call('HSET', of_id(id), 'row', row, 'live', live)
  redis.call('PEXPIRE', of_id(id), string.format('%.0f', lasts))
  for place = at + 5, #ARGV do
    local key = of_count(ARGV[place])
    redis.call('ZADD', key, live, id)
    lengthen(key, lasts)
  end
  if what == 'open' then redis.call('SET', binding, id) end
  if redis.call('GET', binding) == id then lengthen(binding, lasts) end
end

if what == 'open' then
  -- arguments: the id that may be replaced, the number of quotas, the name and bound of each quota, then the row
  local replaces, many = ARGV[3], tonumber(ARGV[4])
  local at = 5 + 2 * many
  local newest = redis.call('GET', base .. ':of:' .. ARGV[at])
  if newest and newest ~= replaces then
    local known = redis.call('HMGET', of_id(newest), 'row', 'live')
    if known[1] and tonumber(known[2]) > now then return answer({'known', known[1]}) end
  end
  for place = 5, 4 + 2 * many, 2 do
    local key = of_count(ARGV[place])
    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
    if redis.call('ZCARD', key) >= tonumber(ARGV[place + 1]) then return answer({'full', ARGV[place]}) end
  end
  keep(at)
  return answer({'new'})
end
if what == 'save' then
  -- arguments: the row before, the number of quotas in which it counted, their names, then the new row
  local many = tonumber(ARGV[4])
  local at = 5 + many
  local id = ARGV[at + 1]
  if redis.call('HGET', of_id(id), 'row') ~= ARGV[3] then return answer(0) end
  for place = 5, 4 + many do redis.call('ZREM', of_count(ARGV[place]), id) end
  keep(at)
  return answer(1)
end
local ids, found = {}, {}
if what == 'find' then
  ids[1] = ARGV[3]
elseif what == 'bound' then
  for place = 3, #ARGV do ids[#ids + 1] = redis.call('GET', base .. ':of:' .. ARGV[place]) or nil end
elseif what == 'ended' then
  -- arguments as for `rows`; an id whose row was deleted is removed
  local ended = redis.call('ZRANGEBYSCORE', of_count(ARGV[3]), '-inf', ARGV[2])
  for _, id in ipairs(ended) do
    if redis.call('EXISTS', of_id(id)) == 1 then
      ids[#ids + 1] = id
    else
      redis.call('ZREM', of_count(ARGV[3]), id)
    end
  end
  ids = {unpack(ids, ARGV[4] + 1, ARGV[4] + ARGV[5])}
else
  -- arguments: the name under which the rows count, the number of rows to skip, the number of rows to list
  ids = redis.call('ZREVRANGEBYSCORE', of_count(ARGV[3]), '+inf', '(' .. ARGV[2], 'LIMIT', ARGV[4], ARGV[5])
end
for _, id in ipairs(ids) do
  local row = redis.call('HGET', of_id(id), 'row')
  if row then found[#found + 1] = row end
end
return answer(found)
