-- A step that only who holds a claim may do, and that leaves under it what it answered. The step itself is `step()`.
-- The last of KEYS is the claim, the last of ARGV are its token, the draft, how long it is kept (microseconds) and until when,
-- where a test gives the time.
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
