-- Commits one decision in the Redis store: the arithmetic of runtime/limits.py, in doubles that hold whole numbers
-- below 2^52.
-- KEYS: a state for each charge; the approvals to spend; if there are confirms, the receipts of each charge; the lines
-- relied on; the lines to which records are added; with behavior, the caller, its row and, if its failure can be
-- reported, the place of the decision; if `clocked`, the charges whose outcome can be reported, the key that awaits the
-- outcome, changes, begun, and the clock.
-- ARGV[1] (MessagePack): {now or false, decision, peek, denied, clocked, charges, the number of approvals to spend, the
-- name of the confirms or false, how long a confirm stays open (microseconds) or false, the versions of the lines
-- relied on, records and, with behavior, {a charge of behavior.lua, the value for the place of the decision or false,
-- its lifetime in seconds}}. With behavior, ARGV[2] is a row to save or ''.
-- Returns false if an approval was already spent, or a line has another version. Otherwise returns {now, admitted, and
-- for each charge {admitted, the state for the answer (numbers), the state without the charge, the tokens already
-- paid}} as MessagePack and, unless `clocked`, for each charge the state before and after, and the receipt before and
-- after (empty: there is none). With behavior, returns {this or '' if the decision must be made again, history, row};
-- three times '' if the caller is damaged.
local given, decision, peek, denied, clocked, charges, spends, name, opens, relied, records, behavior = unpack(cmsgpack.unpack(ARGV[1]))
local RATE, BUDGET, MOST_ENTRIES = 1, 2, 10000
local MOST_RECEIPTS, MOST = 1000, 9007199254740992
local floor, max, min, virtual = math.floor, math.max, math.min, given
local function up(a, b) return -floor(-a / b) end

local now = the_time(given, clocked and KEYS[#KEYS])
for i = 1, spends do
  if redis.call('EXISTS', KEYS[#charges + i]) == 1 then return false end
end
local receipts = #charges + spends
local lines = receipts + (name and #charges or 0)
if not peek then
  for i, was in ipairs(relied) do
    if version(KEYS[lines + i]) ~= was then return false end
  end
end

local caller, caller_row, state_of_caller, levels
if behavior then
  caller = lines + #relied + #records + 1
  caller, caller_row = KEYS[caller], KEYS[caller + 1]
  state_of_caller = caller_at(caller)
  if not state_of_caller then return {'', '', ''} end
  levels = raised(state_of_caller, behavior[1])
  if not levels then return {'', history_of(state_of_caller, caller_row, behavior[1][14], behavior[1][15])} end
end

local function keep(key, value, till)
  if till <= now then return redis.call('DEL', key) end
  -- The server does not know the time that a test gives, so the key does not expire.
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

-- Returns the state for the answer if the request is refused, by this rate or, if it `admitted` the request, by another
-- limit. Until a request is admitted, the level falls at the earlier pace.
local function stays(state, charge, cost, need, counts, admitted)
  local _, level, _, most, drain = pool(state, charge)
  local full, falls = most * charge[4], state and not counts and state[3] or drain
  if counts then level = max(level, min(level + need, full)) end
  local again = admitted and 0 or cost <= most and up(level + need - full, falls) or -1
  return {most, max(0, floor((full - level) / charge[4])), up(level, falls), again, drain}
end

local function take(state, charge, cost, need, counts)
  local tick, level, latches, most, drain = pool(state, charge)
  local full, after = most * charge[4], level + need
  local admitted = after <= full
  local stands = admitted and {most, floor((full - after) / charge[4]), up(after, drain), 0, drain}
    or stays(state, charge, cost, need, counts, false)
  return admitted, stands, {after, tick, drain, unpack(latches)}
end

-- Returns what earlier confirms did not pay: the tokens, the units, and whether denied requests are charged.
local function unpaid(charge, paid)
  if paid == 0 then return charge[3], charge[2], charge[8] end
  local cost = max(0, charge[3] - paid)
  return cost, min(cost * charge[4], MOST), charge[8] and cost > 0
end

local function latched(state, charge)
  local tick, level, latches, most, drain = pool(state, charge)
  if state then return {state[1], state[2], state[3], unpack(latches)} end
  return {0, tick, drain, unpack(latches)}
end

-- Returns the state after a refused request; nil if the state is not to be stored.
local function refused(state, charge, paid)
  local tick, level, latches, most, drain = pool(state, charge)
  local _, need, counts = unpaid(charge, paid)
  if counts then
    return {max(level, min(level + need, most * charge[4])), tick, drain, unpack(latches)}
  end
  return charge[9] and latched(state, charge) or nil
end

-- Returns the state for the answer if another limit had no room, or the charge was prepaid.
local function spared(state, charge, paid)
  local cost, need, counts = unpaid(charge, paid)
  return stays(state, charge, cost, need, counts, true)
end

-- Charges what is not yet paid. A fully prepaid charge needs no room, and only continues its clamps.
local function owed(state, charge, paid)
  local cost, need, counts = unpaid(charge, paid)
  if paid == 0 or cost > 0 then return take(state, charge, cost, need, counts) end
  return true, spared(state, charge, paid), charge[9] and latched(state, charge) or nil
end

-- Returns the tokens that earlier confirms paid, and the receipt {tokens, until}, which has the name of the confirms.
local function paid_for(i)
  local raw = name and charges[i][1] == RATE and redis.call('HGET', KEYS[receipts + i], name)
  if not raw then return 0, '' end
  local tokens, till = unpack(cmsgpack.unpack(raw))
  return till > now and tokens or 0, raw
end

-- Deletes expired receipts; if there are none, the receipt that expires first, whose tokens are then charged again.
local function make_room(key)
  if redis.call('HLEN', key) < MOST_RECEIPTS then return end
  local all, first, ends = redis.call('HGETALL', key), nil, nil
  for j = 1, #all, 2 do
    local till = cmsgpack.unpack(all[j + 1])[2]
    if till <= now then redis.call('HDEL', key, all[j]) end
    if not ends or till < ends then first, ends = all[j], till end
  end
  if redis.call('HLEN', key) >= MOST_RECEIPTS then redis.call('HDEL', key, first) end
end

local function receive(key, tokens, till)
  local raw = cmsgpack.pack({tokens, till})
  redis.call('HDEL', key, name)
  make_room(key)
  redis.call('HSET', key, name, raw)
  local lasts = max(1, up(till - now, 1000))
  if not virtual and redis.call('PTTL', key) < lasts then redis.call('PEXPIRE', key, string.format('%d', lasts)) end
  return raw
end

local function full_at(state, charge)
  local at = state[2] + up(state[1], state[3])
  for i = 4, #state do at = max(at, state[i]) end
  return at * charge[7]
end

-- Budgets: a charge is {BUDGET, bound, within, amount, value or false}, a state is a list of {at, amount, value or
-- false, decision}.
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
    local whose = #others == #live and decision or '' -- the entry of several requests is never released
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

-- Concurrency limits: a charge is {HOLD, most, lease}, a state is a list of {decision, until}, one for each request.
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
  local paid, receipt = paid_for(i)
  local admitted, stands, after, untouched
  if charge[1] == RATE then
    admitted, stands, after = owed(state, charge, paid)
    untouched = spared(state, charge, paid)
  elseif charge[1] == BUDGET then
    admitted, stands, after = add(state, charge)
    untouched = added(state, charge)
  else
    admitted, stands, after = hold(state, charge, true)
    untouched = ({hold(state, charge, false)})[2]
  end
  if opens and not denied and admitted and charge[1] ~= RATE then stands = untouched end
  all = all and admitted
  states[i] = {state, after, paid}
  found[i] = {admitted, stands, untouched, paid}
  raws[4 * i - 2], raws[4 * i - 1], raws[4 * i], raws[4 * i + 1] = raw or '', '', receipt, receipt
end

raws[1] = cmsgpack.pack({now, all, found})
if clocked then raws = raws[1] end
if clocked and not peek then redis.call('SET', KEYS[#KEYS], string.format('%d', now)) end
if peek then return raws end

local made, till = {}, now
for i, charge in ipairs(charges) do
  local state, after, paid = unpack(states[i], 1, 3)
  if denied or not all then
    after = charge[1] == RATE and refused(state, charge, paid)
    if after then keep(KEYS[i], cmsgpack.pack(after), full_at(after, charge)) end
  elseif charge[1] == RATE then
    local full = 0
    if after then
      local raw = cmsgpack.pack(after)
      full = full_at(after, charge)
      keep(KEYS[i], raw, full)
      if not clocked then raws[4 * i - 1] = raw end
    end
    local receipt
    if opens and charge[3] > paid then receipt = receive(KEYS[receipts + i], charge[3], max(now + opens, full)) end
    if not opens and paid > 0 then
      redis.call('HDEL', KEYS[receipts + i], name)
      receipt = ''
    end
    if not clocked and receipt then raws[4 * i + 1] = receipt end
  elseif not opens then
    local raw, ends = cmsgpack.pack(after), 0
    if charge[1] == BUDGET then
      ends = after[#after][1] + charge[3]
    else
      for _, one in ipairs(after) do ends = max(ends, one[2]) end
    end
    keep(KEYS[i], raw, ends)
    if not clocked then raws[4 * i - 1] = raw end
    made[#made + 1] = {KEYS[i], charge[1] ~= BUDGET}
    till = max(till, now + charge[3])
  end
end
if #records > 0 and (all or denied) then
  local first, serial = lines + #relied + 1, changed(KEYS[#KEYS - 2], now)
  remember_all(first, KEYS[#KEYS - 1], KEYS[#KEYS - 3], records, decision, now, serial, virtual)
end
if all and not denied then
  for i = 1, spends do redis.call('SET', KEYS[#charges + i], 1) end
  if clocked and #made > 0 then keep(KEYS[#KEYS - 4], cmsgpack.pack({till, made}), till) end
end
if behavior then
  local charge, reportable, lasts = unpack(behavior)
  local clamped = false
  for i, of in ipairs(charges) do
    local _, stands, untouched = unpack(found[i])
    if of[1] == RATE and (all and stands or not found[i][1] and stands or untouched)[5] < of[6] then clamped = true end
  end
  if reportable and all then
    local place = KEYS[lines + #relied + #records + 3]
    if virtual then redis.call('SET', place, reportable) else redis.call('SET', place, reportable, 'EX', lasts) end
  end
  return {raws, add_event(caller, caller_row, state_of_caller, charge, levels, all, clamped, ARGV[2], virtual)}
end
return raws
