-- Reads lines, and begins watches that were not begun, or of which the server lost that they were.
-- KEYS: begun, the clock where there is one, lines. ARGV[1] (MessagePack): {now or false, clocked, watches to begin, the
-- watch of each line}. It answers {after what nothing is missing, the line} of each.
local given, clocked, begins, watches = unpack(cmsgpack.unpack(ARGV[1]))
local begun, first = KEYS[1], clocked and 2 or 1
local now = the_time(given, clocked and KEYS[2])
alive(begun, now)
for _, watch in ipairs(begins) do call('HSETNX', begun, watch, pack({now - 1, 0, 0})) end
local found = {}
for i, watch in ipairs(watches) do
  local after, shortest = known(begun, watch)
  local line = call('LRANGE', KEYS[first + i], 0, -1)
  after = after or NEVER
  found[i] = {digits(#line > 0 and after or without(after, shortest, now)), line}
end
return found
