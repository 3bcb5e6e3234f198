-- Functions for histories, in front of the scripts that use them. A line is a list: its head {version, within, complete
-- after, number of its first event, version at its creation, version of the last report that the head no longer has,
-- latest reports {version, number of the event…}}, then its events, oldest first: {at, serial, decision, facts,
-- reported}. It expires SLACK after its last event has left the longest window. `begun` has, for each watch, the time
-- after which its history is complete, the shortest window for which it was recorded, and the last time when it was
-- recorded for this window: expired events are older than the window.
local MOST_EVENTS, SLACK, NEVER = 10000, 60000000, 4611686018427387904
local MOST_REPORTS = 32
local call, pack, unpacked, most = redis.call, cmsgpack.pack, cmsgpack.unpack, math.max

local function digits(number) return string.format('%d', number) end

local function the_time(given, clock)
  local now = given
  if not now then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
  end
  return clock and most(now, tonumber(call('GET', clock) or 0)) or now
end

-- Returns the time, and stores it, so that time never runs backwards.
local function moved(given, clock)
  local now = the_time(given, clock)
  call('SET', clock, digits(now))
  return now
end

-- Returns a new serial, which is higher than all earlier serials, even if the server has lost the last of them.
local function changed(changes, now)
  local serial = most(tonumber(call('GET', changes) or 0) + 1, now)
  call('SET', changes, digits(serial))
  return serial
end

local function version(line)
  local head = call('LINDEX', line, 0)
  return head and unpacked(head)[1] or 0
end

local function known(begun, watch)
  local raw = call('HGET', begun, watch)
  if raw then return unpack(unpacked(raw)) end
  return nil, 0, 0
end

-- Returns the time after which a line that does not exist is complete.
local function without(after, shortest, now)
  return shortest > 0 and most(after, now - shortest - SLACK) or after
end

local function recorded_for(begun, watch, within, now)
  local after, shortest, last = known(begun, watch)
  if not after then return now end
  local then_without = without(after, shortest, now)
  if shortest == 0 or within <= shortest then
    shortest, last = within, now
  elseif now > last + shortest + SLACK then
    after, shortest, last = most(after, last), within, now
  end
  call('HSET', begun, watch, pack({after, shortest, last}))
  return then_without
end

-- Adds the event of a record {watch, within, latest, facts, awaited outputs or false}. Returns the number of the event.
local function remember(line, begun, record, decision, now, serial, virtual)
  local watch, within, latest, facts = unpack(record)
  local raw = call('LPOP', line)
  local lacks = recorded_for(begun, watch, within, now)
  local head = raw and unpacked(raw) or {0, 0, lacks, 0, serial, 0, {}}
  local many, at = raw and call('LLEN', line) or 0, now
  if many > 0 then at = most(now, unpacked(call('LINDEX', line, -1))[1]) end
  head[1], head[2] = serial, most(head[2], within)
  if latest then
    call('DEL', line)
    head[4], many = head[4] + many, 0
  end
  call('RPUSH', line, pack({at, serial, decision, facts, ''}))
  many = many + 1
  while not latest do
    local oldest = unpacked(call('LINDEX', line, 0))[1]
    if oldest > at - head[2] and many <= MOST_EVENTS then break end
    call('LPOP', line)
    head[3], head[4], many = most(head[3], oldest), head[4] + 1, many - 1
  end
  call('LPUSH', line, pack(head))
  if not virtual then call('PEXPIRE', line, digits(-math.floor(-(at - now + head[2] + SLACK) / 1000))) end
  return head[4] + many - 1
end

-- Adds the events of all records of a decision, to the lines from KEYS[first] on. The key `awaited` lists the events
-- that await the outcome.
local function remember_all(first, begun, awaited, records, decision, now, serial, virtual)
  local waiting, till = {}, 0
  for i, record in ipairs(records) do
    local line = KEYS[first + i - 1]
    local number = remember(line, begun, record, decision, now, serial, virtual)
    if record[5] then
      waiting[#waiting + 1], till = {line, number, record[5]}, most(till, now + record[2])
    end
  end
  if #waiting == 0 then return end
  call('SET', awaited, pack({till, false, waiting}))
  if not virtual then call('PEXPIRE', awaited, digits(-math.floor(-(till - now) / 1000))) end
end

-- Begins all histories again if the server was restarted or replaced and has no append-only file, because it may have
-- lost any number of its last writes.
local function alive(begun, now)
  local run = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  local was = call('HGET', begun, 'run')
  if was == run then return end
  if was and not string.find(call('INFO', 'persistence'), 'aof_enabled:1', 1, true) then
    for _, watch in ipairs(call('HKEYS', begun)) do
      if watch ~= 'run' then
        local after, shortest, last = known(begun, watch)
        call('HSET', begun, watch, pack({most(after, now - 1), shortest, last}))
      end
    end
  end
  call('HSET', begun, 'run', run)
end
