-- Reads lines, and begins watches that have not begun or whose beginning the server has lost.
-- KEYS: begun, the clock, lines. ARGV[1] (MessagePack): {now or false, watches to begin, the watch of each line, the
-- part of each line that the caller has cached: {version at the creation of the line, version, number of the next
-- event} or false}.
-- Returns the time and, for each line, {the time after which the history of its watch is complete, the head of the line,
-- the number of the first event that follows, the events from this one on, and the earlier events that were reported
-- since, each after its number}.
local given, begins, watches, read = unpack(cmsgpack.unpack(ARGV[1]))
local begun, first = KEYS[1], 2
local now = the_time(given, KEYS[2])
redis.pcall('SET', KEYS[2], digits(now)) -- a server that refuses writes can still be read
alive(begun, now)
for _, watch in ipairs(begins) do
  if call('HEXISTS', begun, watch) == 0 then call('HSET', begun, watch, pack({now - 1, 0, 0})) end
end
local found = {digits(now)}
for i, watch in ipairs(watches) do
  local after, shortest = known(begun, watch)
  local line, mine, changed = KEYS[first + i], read[i], {}
  local raw = call('LINDEX', line, 0)
  after = after or NEVER
  if raw then
    local head = unpacked(raw)
    local start, reports = head[4], head[7]
    if mine and mine[1] == head[5] and mine[2] >= head[6] then
      start = most(start, mine[3])
      for j = 1, #reports, 2 do
        local number = reports[j + 1]
        if reports[j] > mine[2] and number >= head[4] and number < start then
          changed[#changed + 1], changed[#changed + 2] = number, call('LINDEX', line, number - head[4] + 1)
        end
      end
    end
    found[i + 1] = {digits(after), raw, start, call('LRANGE', line, start - head[4] + 1, -1), changed}
  else
    found[i + 1] = {digits(without(after, shortest, now)), '', 0, {}, {}}
  end
end
return found
