-- discard(id, text) -> 'removed' | 'asked' its box is asked to end it first | '' no such job
-- Removes a job whose record cannot be read, with all that is promised to it. Nothing of the record is trusted: it is
-- searched for in every place where a job can be.
local id, text = ARGV[1], ARGV[2]
local key = P .. 'job:' .. id
local function member(set) return redis.call('ZSCORE', P .. set, id) end
if redis.call('EXISTS', key) == 0 and not member('live') and not member('ended') then return '' end
local lease = member('leases')
if lease and tonumber(lease) > now() and OWNED[get(id, 'state')] then
  if get(id, 'wish') ~= 'cancel' then
    set(id, { wish = 'cancel' })
    note(id, now(), '', text)
    announce(id)
    redis.call('PUBLISH', P .. 'wish:' .. id, 'cancel')
  end
  return 'asked'
end

-- Before anything is written: a user of the server who may not look through all keys may not do any of this.
local promised, at = {}, '0'
local escaped = P:gsub('[%*%?%[%]%^\\-]', '\\%0')
repeat
  local answer = redis.call('SCAN', at, 'MATCH', escaped .. 'promises:*', 'COUNT', 1000)
  at = answer[1]
  for _, promises in ipairs(answer[2]) do promised[#promised + 1] = promises end
until at == '0'

unqueue(id)
keep_start(id, false)
local lists = {}
for _, queue in ipairs(LISTS) do lists[#lists + 1] = queue end
for _, box in ipairs(redis.call('ZRANGE', P .. 'boxes', 0, -1)) do
  lists[#lists + 1] = 'box.' .. box
  for _, set in ipairs({ 'owned:', 'former:' }) do redis.pcall('SREM', P .. set .. box, id) end
end
for _, list in ipairs(lists) do
  local messages = redis.pcall('LRANGE', P .. list, 0, -1)
  for _, message in ipairs(messages.err and {} or messages) do
    if message:find('"' .. id .. '"', 1, true) then redis.call('LREM', P .. list, 0, message) end
  end
end

for _, promises in ipairs(promised) do
  if redis.pcall('HDEL', promises, id) == 1 then redis.pcall('HINCRBY', promises, '#', 1) end
end
for _, entry in ipairs(redis.call('ZRANGE', P .. 'lookup', 0, -1)) do
  if entry == 'i:' .. id or entry:sub(-#id - 1) == '\0' .. id then redis.call('ZREM', P .. 'lookup', entry) end
end
for _, set in ipairs({ 'live', 'ended', 'leases' }) do redis.call('ZREM', P .. set, id) end
redis.call('DEL', key, P .. 'history:' .. id, P .. 'tail:' .. id, P .. 'tail:' .. id .. ':ranks', P .. 'curve:' .. id, P .. 'holds:' .. id)
redis.call('ZADD', P .. 'removed', now(), id)
redis.call('ZREMRANGEBYRANK', P .. 'removed', 0, -100001)
announce(id)
settle_dependants(id, now())
redis.call('ZREM', P .. 'timed', id)
redis.call('ZREM', P .. 'conditional', id)
return 'removed'
