-- Reads or changes what is known of one caller, apart from other effects of a decision.
-- KEYS: the caller, its row. ARGV: `read`; or `failure`, an outcome, the most events that wait; or `forget`, the events of a
-- generation; or `event`, a charge (MessagePack), whether the request was admitted and clamped (1 or 0), a row to save or '',
-- whether time is virtual (1 or 0).
-- It answers {whether the step was done, history, row}.
local what = ARGV[1]
local state = caller_at(KEYS[1])
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
