-- Locks the lines of a decision in one slot of a Cluster while its other keys are changed in other slots, and unlocks
-- them when the decision has succeeded or failed. The lock of a process that died expires after LEASE. KEYS: the lines
-- relied on, the lines to which records are added, a lock for each of these lines, the key that awaits the outcome,
-- changes, begun, the clock of the slot.
-- ARGV[1] (MessagePack): {now or false, decision, the operation (`lock`, `keep`, `once`, `free`), the name of this
-- attempt, the versions of the lines relied on, records, serial or false}. Returns a serial; false if a line has
-- another version, or if another attempt has locked it.
local LEASE = 2000 -- milliseconds
local given, decision, task, name, relied, records, serial = unpack(cmsgpack.unpack(ARGV[1]))
local many, now = #relied + #records, moved(given, KEYS[#KEYS])
local awaited, changes, begun = KEYS[#KEYS - 3], KEYS[#KEYS - 2], KEYS[#KEYS - 1]

local held = 0
for i = 1, many do
  local holder = call('GET', KEYS[many + i])
  if holder == name then
    held = held + 1
  elseif holder and task ~= 'free' then
    return false
  end
end
if task == 'keep' and held < many then return false end
if task == 'lock' or task == 'once' then
  for i, was in ipairs(relied) do
    if version(KEYS[i]) ~= was then return false end
  end
end
if task == 'lock' then
  for i = 1, many do call('SET', KEYS[many + i], name, 'PX', LEASE) end
  return digits(changed(changes, now))
end
if task == 'keep' and #records > 0 then
  call('SET', changes, digits(most(serial, tonumber(call('GET', changes) or 0))))
elseif task == 'once' and #records > 0 then
  serial = changed(changes, now)
end
if task ~= 'free' then
  remember_all(#relied + 1, begun, awaited, records, decision, now, serial, given)
end
for i = 1, many do
  if call('GET', KEYS[many + i]) == name then call('DEL', KEYS[many + i]) end
end
return digits(serial or 0)
