-- Reads or changes the state of one caller, apart from other effects of a decision.
-- KEYS: the caller, its row. ARGV: the operation and its arguments:
--   `read`: none
--   `failure`: an outcome, the maximum number of unfolded events
--   `forget`: the number of events of a generation, the milliseconds for which the number of a damaged caller is kept
--     if its key has no expiry
--   `event`: a charge (MessagePack), whether the request was admitted and clamped (1 or 0), a row to save or '',
--     whether time is virtual (1 or 0)
-- Returns {1 if the step was done or 0 if not, history, row}; {-1, '', ''} if the state of the caller is damaged.
local what = ARGV[1]
local state = caller_at(KEYS[1])
if not state then
  if what == 'forget' then
    local seconds, left = tonumber(redis.call('TIME')[1]), redis.call('PTTL', KEYS[1])
    redis.call('DEL', KEYS[2])
    redis.call('DEL', KEYS[1])
    local lasts = left > 0 and left or tonumber(ARGV[3])
    redis.call('SET', KEYS[1], cmsgpack.pack({0, 0, 0, 0, seconds * tonumber(ARGV[2]), {}}), 'PX', string.format('%d', lasts))
    return {1, '', ''}
  end
  return {-1, '', ''}
end
if what == 'failure' then
  if #state[6] > 0 and #state[6] < tonumber(ARGV[3]) then
    state[6][#state[6] + 1] = {state[1], 0, 0, 0, tonumber(ARGV[2]), false, {}}
    redis.call('SET', KEYS[1], cmsgpack.pack(state), 'KEEPTTL')
  end
  return {1, '', ''}
end
if what == 'forget' then
  redis.call('DEL', KEYS[2])
  if #state[6] == 0 then return {0, '', ''} end
  local most = tonumber(ARGV[2])
  local base = (math.floor((state[5] + #state[6]) / most) + 1) * most
  redis.call('SET', KEYS[1], cmsgpack.pack({0, 0, 0, 0, base, {}}), 'KEEPTTL')
  return {1, '', ''}
end
if what == 'read' then return {1, history_of(state, KEYS[2], -1, 0)} end
local charge = cmsgpack.unpack(ARGV[2])
local levels = raised(state, charge)
if not levels then return {0, history_of(state, KEYS[2], charge[14], charge[15])} end
local admitted, clamped, row, virtual = ARGV[3] == '1', ARGV[4] == '1', ARGV[5], ARGV[6] == '1'
return {1, add_event(KEYS[1], KEYS[2], state, charge, levels, admitted, clamped, row, virtual)}
