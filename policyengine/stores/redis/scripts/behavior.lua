-- Functions for learned behavior, in front of the scripts that use them: the arithmetic of stores/behavior.py. Each
-- caller has two keys: its state {at, slow, fast, denied, base, events}, and its saved row, which contains the first
-- `base` events. An event is {at, slow, fast, denied, outcome, clamped, numbers that scripts do not interpret}. A
-- charge is {at, unit, top, falls, ceilings, since, until, burst, strict, outcome, refused, allowed, numbers, base,
-- number, milliseconds for which the caller is kept, caps}; runtime/behavior.py describes its members.
local GENERATION, EXACT = 1048576, 9007199254740991
-- Returns the value of a key; nil, and true, if the key has another type.
local function value_at(key)
  local raw = redis.pcall('GET', key)
  if type(raw) ~= 'table' then return raw end
  if redis.call('TYPE', key).ok == 'string' then error(raw.err) end
  return nil, true
end

-- Returns the state of a caller; nil if it is damaged. The content of events is not checked.
local function caller_at(key)
  local raw, damaged = value_at(key)
  if damaged then return nil end
  if not raw then return {0, 0, 0, 0, 0, {}} end
  local readable, state, more = pcall(cmsgpack.unpack, raw)
  if not readable or more ~= nil or type(state) ~= 'table' or #state ~= 6 or type(state[6]) ~= 'table' then return nil end
  for i = 1, 5 do
    local number = state[i]
    if type(number) ~= 'number' or number ~= math.floor(number) or math.abs(number) > EXACT then return nil end
  end
  if state[1] < 0 or state[5] < 0 then return nil end
  return state
end

-- Returns the saved row; if the key has another type, a byte that no process can decode.
local function row_at(key)
  local row, damaged = value_at(key)
  return damaged and '\193' or row or ''
end

-- Returns the levels with the request and the time of the latest event; nil if the decision must be made again.
local function raised(state, charge)
  local at, unit, top, falls, ceilings, since, till, burst, strict = unpack(charge, 1, 9)
  local slow, fast, denied, last = 0, 0, 0, state[1]
  if last >= till then
    last = at
  elseif last >= since then
    local passed = math.max(at - last, 0)
    slow, fast = math.max(state[2] - passed * falls[1], 0), math.max(state[3] - passed * falls[2], 0)
    denied = math.max(state[4] - passed * falls[1], 0)
  end
  slow, fast = math.min(slow + unit, top), math.min(fast + unit, top)
  if (slow + denied > ceilings[1] or fast > ceilings[2]) ~= burst then return nil end
  if burst then
    local caps = charge[17]
    slow, fast, denied = math.min(slow, caps[1]), math.min(fast, caps[2]), math.min(denied, caps[1])
  end
  local number, known = state[5] + #state[6], charge[15]
  if strict and number ~= known then return nil end
  if known > 0 and math.floor(known / GENERATION) ~= math.floor(number / GENERATION) then return nil end
  return {slow, fast, denied, math.max(at, last)}
end

-- Returns what a process that knows the row with `base` events and the events up to `number` does not know yet: {base,
-- whether the saved row has changed, number of the first event, events}, and the saved row, or '' if it has not
-- changed.
local function history_of(state, row_key, base, number)
  if base ~= state[5] or number > state[5] + #state[6] then
    return cmsgpack.pack({state[5], true, state[5] + 1, state[6]}), row_at(row_key)
  end
  return cmsgpack.pack({base, false, number + 1, {unpack(state[6], number - base + 1)}}), ''
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

local function add_event(key, row_key, state, charge, levels, admitted, clamped, row, virtual)
  local base, number, unit, top = charge[14], charge[15], charge[2], charge[3]
  local slow, fast, denied, last = unpack(levels)
  local events = state[6]
  local starts = number == 0 and base + #events == 0
  if row ~= '' and base == state[5] and (starts or number > base and number <= base + #events) then
    redis.call('SET', row_key, row)
    events, state[5], base = {unpack(events, number - base + 1)}, number, number
  end
  local outcome = admitted and charge[10] or charge[11]
  events[#events + 1] = {charge[1], slow, fast, denied, outcome, clamped, charge[13]}
  if not (admitted and charge[12]) then
    slow, fast, denied = slow - unit, fast - unit, math.min(denied + unit, top)
  end
  state[1], state[2], state[3], state[4], state[6] = last, slow, fast, denied, events
  keep_caller(key, row_key, state, charge[16], virtual)
  return history_of(state, row_key, base, number)
end
