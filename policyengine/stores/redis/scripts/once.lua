-- Runs `step()` if the caller still has a claim, and stores its answer under the claim. Returns false without a claim.
-- The last of KEYS is the claim. The last of ARGV are its token, the draft, the microseconds for which the answer is
-- kept and, if a test gives the time, the time until which it is kept.
local once = table.remove(KEYS)
local till, kept, draft, token = table.remove(ARGV), table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)
local held = redis.call('HMGET', once, 'token', 'draft')
if held[1] ~= token or held[2] then return false end
local answer = step()
local settled = type(answer) == 'table' and answer[1] or answer
if not settled or settled == '' then return answer end
redis.call('HSET', once, 'draft', draft, 'settled', settled)
if till ~= '' then
  redis.call('HSET', once, 'until', till)
else
  redis.call('PEXPIRE', once, string.format('%d', kept / 1000))
end
return answer
