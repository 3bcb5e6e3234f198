-- Reports the outcome of a decision's request. KEYS: the key that awaits the outcome, changes, the clock, then each
-- line. ARGV[1] (MessagePack): {now or false, decision, for each line {the number of its event, the reported values}}.
-- Returns 1 if the outcome was already reported, 0 if not, and false if no event awaits it.
local given, decision, reports = unpack(cmsgpack.unpack(ARGV[1]))
local first, now = 3, moved(given, KEYS[3])
local raw = call('GET', KEYS[1])
if not raw then return false end
local till, reported, waiting = unpack(unpacked(raw))
if till <= now then return false end
if reported then return 1 end
call('SET', KEYS[1], pack({till, true, waiting}), 'KEEPTTL')
local serial = changed(KEYS[2], now)
for i, one in ipairs(reports) do
  local line = KEYS[first + i]
  local head = call('LINDEX', line, 0)
  if head then
    head = unpacked(head)
    local place = one[1] - head[4] + 1
    local event = place > 0 and call('LINDEX', line, place)
    event = event and unpacked(event)
    if event and event[3] == decision then
      local reports = head[7]
      if #reports == 2 * MOST_REPORTS then
        head[6] = table.remove(reports, 1)
        table.remove(reports, 1)
      end
      reports[#reports + 1], reports[#reports + 2] = serial, one[1]
      event[5], head[1] = one[2], serial
      call('LSET', line, place, pack(event))
      call('LSET', line, 0, pack(head))
    end
  end
end
return 0
