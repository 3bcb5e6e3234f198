-- One step of the Redis store: the arithmetic of runtime/limits.py, in doubles that hold whole numbers below 2^52.
-- KEYS: a state for each charge, the approvals to spend, the bindings to open, the lines relied on, the lines that records
-- enter; where `clocked`, what was made, what is waited for, changes, begun, and the clock.
-- ARGV[1] (MessagePack): {now or false, decision, peek, denied, clocked, charges, spends, lifetimes of opens, versions of
-- lines relied on, records}
-- It answers nothing when an approval was spent before, or a line is of another version; else {now, admitted, and for each charge {admitted, what it stands
-- at (numbers), the same if untouched}} as MessagePack, and of each charge the state before and after (empty: there is none).
local given, decision, peek, denied, clocked, charges, spends, opens, relied, records = unpack(cmsgpack.unpack(ARGV[1]))
local RATE, BUDGET, MOST_ENTRIES = 1, 2, 10000
local floor, max, min, virtual = math.floor, math.max, math.min, given
local function up(a, b) return -floor(-a / b) end

local now = the_time(given, clocked and KEYS[#KEYS])
for i = 1, spends do
  if redis.call('EXISTS', KEYS[#charges + i]) == 1 then return false end
end
local lines = #charges + spends + #opens
if not peek then
  for i, was in ipairs(relied) do
    if version(KEYS[lines + i]) ~= was then return false end
  end
end

local function keep(key, value, till)
  if till <= now then return redis.call('DEL', key) end
  -- Of a time that a test gives, the server's own clock says nothing.
  if virtual then return redis.call('SET', key, value) end
  return redis.call('SET', key, value, 'PX', string.format('%d', max(1, up(till - now, 1000))))
end

-- Rates: a charge is {RATE, need, cost, token, most, drain, tick, counts, latches, clamps}, a clamp {most, drain, acts, lasts};
-- a state is {level, at, drain, latches…}.
local function pool(state, charge)
  local most, drain, clamps = charge[5], charge[6], charge[10]
  local tick, level, known, latches = floor(now / charge[7]), 0, false, {}
  if state then
    tick = max(tick, state[2])
    level = max(0, state[1] - (tick - state[2]) * state[3])
    known = #state == 3 + #clamps
  end
  for i, clamp in ipairs(clamps) do
    latches[i] = max(known and state[3 + i] or 0, clamp[4] > 0 and tick + clamp[4] or 0)
  end
  for i, clamp in ipairs(clamps) do
    if clamp[3] or tick < latches[i] then most, drain = min(most, clamp[1]), min(drain, clamp[2]) end
  end
  return tick, level, latches, most, drain
end

local function take(state, charge, need)
  local tick, level, latches, most, drain = pool(state, charge)
  local full, after = most * charge[4], level + need
  local admitted = after <= full
  local left = admitted and after or level
  local again = admitted and 0 or charge[3] <= most and up(after - full, drain) or -1
  local stands = {most, max(0, floor((full - left) / charge[4])), up(left, drain), again, drain}
  return admitted, stands, {after, tick, drain, unpack(latches)}
end

local function refused(state, charge)
  local tick, level, latches, most, drain = pool(state, charge)
  if charge[8] then
    return {max(level, min(level + charge[2], most * charge[4])), tick, drain, unpack(latches)}
  end
  if state then return {state[1], state[2], state[3], unpack(latches)} end
  return {0, tick, drain, unpack(latches)}
end

local function full_at(state, charge)
  local at = state[2] + up(state[1], state[3])
  for i = 4, #state do at = max(at, state[i]) end
  return at * charge[7]
end

-- Budgets: a charge is {BUDGET, bound, within, amount, value or false}, a state entries {at, amount, value or false, decision}.
local function add(state, charge)
  local entries, bound, within, amount, value = state or {}, charge[2], charge[3], charge[4], charge[5]
  local at = #entries > 0 and max(now, entries[#entries][1]) or now
  local live, others, used = {}, {}, 0
  for _, one in ipairs(entries) do
    if one[1] > at - within then
      live[#live + 1] = one
      if not value or one[3] ~= value then
        others[#others + 1] = one
        used = used + one[2]
      end
    end
  end
  if used + amount <= bound then
    local whose = #others == #live and decision or '' -- what several added nobody gives back
    if #others == MOST_ENTRIES then amount, whose = amount + table.remove(others)[2], '' end
    others[#others + 1] = {at, amount, value, whose}
    local total = 0
    for _, one in ipairs(others) do total = total + one[2] end
    return true, {total, within, 0, 0, 0}, others
  end
  local total, again = 0, -1
  for _, one in ipairs(live) do total = total + one[2] end
  for _, one in ipairs(others) do
    used = used - one[2]
    if used + amount <= bound then again = one[1] + within - at break end
  end
  return false, {total, #live > 0 and live[#live][1] + within - at or 0, again, 0, 0}, nil
end

local function added(state, charge)
  local total, last = 0, 0
  for _, one in ipairs(state or {}) do
    if one[1] > now - charge[3] then total, last = total + one[2], one[1] + charge[3] - now end
  end
  return {total, last, 0, 0, 0}
end

-- At once: a charge is {HOLD, most, lease}, a state {decision, until} of each that is under way.
local function hold(state, charge, more)
  local live, first, last = {}, false, now
  for _, one in ipairs(state or {}) do
    if one[2] > now then
      live[#live + 1] = one
      first, last = min(first or one[2], one[2]), max(last, one[2])
    end
  end
  local admitted = #live < charge[2] or not more
  if admitted and more then
    live[#live + 1] = {decision, now + charge[3]}
    last = max(last, now + charge[3])
  end
  return admitted, {charge[2] - #live, last - now, admitted and 0 or (first or now) - now, 0, 0}, live
end

local states, found, raws, all = {}, {}, {}, true
for i, charge in ipairs(charges) do
  local raw = redis.call('GET', KEYS[i])
  local state = raw and cmsgpack.unpack(raw)
  local admitted, stands, after, untouched
  if charge[1] == RATE then
    admitted, stands, after = take(state, charge, charge[2])
    untouched = ({take(state, charge, 0)})[2]
  elseif charge[1] == BUDGET then
    admitted, stands, after = add(state, charge)
    untouched = added(state, charge)
  else
    admitted, stands, after = hold(state, charge, true)
    untouched = ({hold(state, charge, false)})[2]
  end
  all = all and admitted
  states[i] = {state, after}
  found[i] = {admitted, stands, untouched}
  raws[2 * i], raws[2 * i + 1] = raw or '', ''
end

local asked_before = #opens > 0
for i, _ in ipairs(opens) do
  asked_before = asked_before and tonumber(redis.call('GET', KEYS[#charges + spends + i]) or 0) > now
end
raws[1] = cmsgpack.pack({now, all, found})
if clocked then raws = raws[1] end
if clocked and not peek then redis.call('SET', KEYS[#KEYS], string.format('%d', now)) end
if peek or asked_before then return raws end

local made, till = {}, now
for i, charge in ipairs(charges) do
  local state, after = unpack(states[i])
  if denied or not all then
    if charge[1] == RATE and (charge[8] or charge[9]) then
      after = refused(state, charge)
      keep(KEYS[i], cmsgpack.pack(after), full_at(after, charge))
    end
  else
    local raw = cmsgpack.pack(after)
    if charge[1] == RATE then
      keep(KEYS[i], raw, full_at(after, charge))
    elseif charge[1] == BUDGET then
      keep(KEYS[i], raw, after[#after][1] + charge[3])
    else
      local last = 0
      for _, one in ipairs(after) do last = max(last, one[2]) end
      keep(KEYS[i], raw, last)
    end
    if not clocked then raws[2 * i + 1] = raw end
    if charge[1] ~= RATE then
      made[#made + 1] = {KEYS[i], charge[1] ~= BUDGET}
      till = max(till, now + charge[3])
    end
  end
end
if #records > 0 and (all or denied) then
  local first, serial = lines + #relied + 1, changed(KEYS[#KEYS - 2], now)
  remember_all(first, KEYS[#KEYS - 1], KEYS[#KEYS - 3], records, decision, now, serial, virtual)
end
if all and not denied then
  for i = 1, spends do redis.call('SET', KEYS[#charges + i], 1) end
  for i, lasts in ipairs(opens) do
    keep(KEYS[#charges + spends + i], string.format('%d', now + lasts), now + lasts)
  end
  if clocked and #made > 0 then keep(KEYS[#KEYS - 4], cmsgpack.pack({till, made}), till) end
end
return raws
