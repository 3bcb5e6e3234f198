-- Charges only steady rates, for many decisions in order: a shorter form of step.lua for most requests, with the same
-- arithmetic. KEYS: states. ARGV[1] (MessagePack): {now or false, paces, decisions}; a pace is {need, full, drain,
-- tick}, a decision is {key, pace, key, pace…}: the indexes of a key and of its pace for each charge.
-- Returns, as MessagePack, the time and then the level of each charged state before its decision.
local given, paces, decisions = unpack(cmsgpack.unpack(ARGV[1]))
local call, floor = redis.call, math.floor
local now = given
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
local states, kept, levels, last = {}, {}, {now}, 1

for _, asked in ipairs(decisions) do
  local admitted, first = true, last
  for i = 1, #asked, 2 do
    local key, pace = asked[i], paces[asked[i + 1]]
    local state, level = states[key], 0
    if state == nil then
      local raw = call('GET', KEYS[key])
      state = raw and cmsgpack.unpack(raw) or false
      states[key] = state
    end
    if state then
      local passed = floor(now / pace[4]) - state[2]
      level = state[1]
      if passed > 0 then level = level - passed * state[3] end
      if level < 0 then level = 0 end
    end
    last = last + 1
    levels[last] = level
    if level + pace[1] > pace[2] then admitted = false end
  end
  if admitted then
    for i = 1, #asked, 2 do
      local key, pace = asked[i], paces[asked[i + 1]]
      local tick, state, level = floor(now / pace[4]), states[key], levels[first + (i + 1) / 2]
      if state then
        if state[2] > tick then tick = state[2] end
        state[1], state[2], state[3] = level + pace[1], tick, pace[3]
      else
        states[key] = {level + pace[1], tick, pace[3]}
      end
      kept[key] = pace[4]
    end
  end
end

for key, tick in pairs(kept) do
  local state = states[key]
  local lasts = (state[2] - floor(-state[1] / state[3])) * tick - now
  local value = cmsgpack.pack({state[1], state[2], state[3]})
  if lasts <= 0 then
    call('DEL', KEYS[key])
  elseif given then
    call('SET', KEYS[key], value)
  else
    call('SET', KEYS[key], value, 'PX', -floor(-lasts / 1000))
  end
end
return cmsgpack.pack(levels)
