-- Learned behavior in Redis, in front of the scripts that use it: the arithmetic of stores/behavior.py. Of each caller there are
-- two keys: {at, slow, fast, base, events}, and the saved row, which contains the first `base` events. An event is {at, slow,
-- fast, outcome, clamped, numbers that scripts do not interpret…}.
-- A charge is {at, unit, top, how fast the levels fall, their ceilings, since, burst, strict, outcome, refused, numbers, base,
-- number, milliseconds that it lasts}.
local function caller_at(key)
  local raw = redis.call('GET', key)
  if raw then return cmsgpack.unpack(raw) end
  return {0, 0, 0, 0, {}}
end

-- The levels with the request; nothing if the decision must be made again.
local function raised(state, charge)
  local at, unit, top, falls, ceilings, since, burst, strict = unpack(charge, 1, 8)
  local slow, fast = 0, 0
  if state[1] >= since then
    local passed = math.max(at - state[1], 0)
    slow, fast = math.max(state[2] - passed * falls[1], 0), math.max(state[3] - passed * falls[2], 0)
  end
  slow, fast = math.min(slow + unit, top), math.min(fast + unit, top)
  if (slow > ceilings[1] or fast > ceilings[2]) ~= burst then return nil end
  if strict and state[4] + #state[5] ~= charge[13] then return nil end
  return slow, fast
end

-- What a process does not know yet: {base, whether the row is another one, number of the first event, events}, and that row.
local function history_of(state, row_key, base, number)
  if base ~= state[4] or number > state[4] + #state[5] then
    return cmsgpack.pack({state[4], true, state[4] + 1, state[5]}), redis.call('GET', row_key) or ''
  end
  return cmsgpack.pack({base, false, number + 1, {unpack(state[5], number - base + 1)}}), ''
end

local function keep_caller(key, row_key, state, lasts, virtual)
  local value = cmsgpack.pack(state)
  if virtual then
    redis.call('SET', key, value)
  else
    local milliseconds = string.format('%d', lasts)
    redis.call('SET', key, value, 'PX', milliseconds)
    redis.call('PEXPIRE', row_key, milliseconds)
  end
end

local function add_event(key, row_key, state, charge, slow, fast, admitted, clamped, row, virtual)
  local base, number = charge[12], charge[13]
  local events = state[5]
  if row ~= '' and base == state[4] and number > base and number <= base + #events then
    redis.call('SET', row_key, row)
    events, state[4], base = {unpack(events, number - base + 1)}, number, number
  end
  local outcome = admitted and charge[9] or charge[10]
  events[#events + 1] = {charge[1], slow, fast, outcome, clamped, charge[11]}
  state[1], state[2], state[3], state[5] = math.max(charge[1], state[1]), slow, fast, events
  keep_caller(key, row_key, state, charge[14], virtual)
  return history_of(state, row_key, base, number)
end
