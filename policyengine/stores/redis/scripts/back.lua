-- Takes back from one state what a decision was given, because its request is finished, or because another part of the
-- decision was refused.
-- KEYS[1]: the state. ARGV: the decision or, for a receipt, the name of the receipt; the kind: `place`, `entry`, `rate`
-- or `receipt`; the state before and after the charge, each empty if there is none or it is unknown; the units of the
-- charge; the microseconds of a tick; and the time, if a test gives it.
-- The state never falls below what it would be without the decision: what cannot be attributed to the decision stays.
local MOST_ENTRIES = 10000
local key, decision, kind, before, after = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local given_now = tonumber(ARGV[7] or '0')

local function the_time()
  if given_now ~= 0 then return given_now end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

if kind == 'receipt' then
  if (redis.call('HGET', key, decision) or '') ~= after then return 0 end
  if before == '' then return redis.call('HDEL', key, decision) end
  redis.call('HSET', key, decision, before)
  local lasts = math.max(1, math.ceil((cmsgpack.unpack(before)[2] - the_time()) / 1000))
  if given_now == 0 and redis.call('PTTL', key) < lasts then
    redis.call('PEXPIRE', key, string.format('%d', lasts))
  end
  return 1
end

local raw = redis.call('GET', key)
if not raw then return 0 end
local state = cmsgpack.unpack(raw)

local function keep(value)
  if #value == 0 then redis.call('DEL', key) else redis.call('SET', key, cmsgpack.pack(value), 'KEEPTTL') end
  return 1
end

if kind ~= 'rate' and raw == after and before ~= '' then return keep(cmsgpack.unpack(before)) end
if kind == 'entry' and #state >= MOST_ENTRIES and after ~= '' then return 0 end -- the last entry may be shared
if kind ~= 'rate' then
  local left, mine, known = {}, nil, {}
  for _, one in ipairs(state) do
    if one[kind == 'place' and 1 or 4] == decision then mine = one else left[#left + 1] = one end
  end
  if kind == 'place' or before == '' or not mine or not mine[3] then return keep(left) end
  -- Restore the earlier entry with the same value, at its place.
  for _, one in ipairs(cmsgpack.unpack(before)) do
    if one[3] == mine[3] then left[#left + 1] = one end
  end
  table.sort(left, function(one, other) return one[1] < other[1] end)
  return keep(left)
end

local given = cmsgpack.unpack(after)
if raw == after then
  local old = before ~= '' and cmsgpack.unpack(before) or {0, given[2], given[3]}
  local back = {old[1], old[2], old[3]}
  for i = 4, #given do back[i] = given[i] end
  return keep(back)
end
if given[3] ~= state[3] then return 0 end
local tick = math.max(math.floor(the_time() / tonumber(ARGV[6])), state[2])
local still = tonumber(ARGV[5]) - (tick - given[2]) * state[3]
if still <= 0 then return 0 end
state[1] = math.max(0, math.max(0, state[1] - (tick - state[2]) * state[3]) - still)
state[2] = tick
return keep(state)
