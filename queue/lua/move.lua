-- move(id, to, source states as a JSON list, epoch or '', fields as JSON, reason, text, box or '', lease in ms or '')
-- -> {1, state} | {0, state, epoch} | {2} this server knows less than the owner
-- The only way for a state to change besides submit, claim, request_stop, hold, sweep and restore: compare-and-set on state and owner.
local id, to, epoch, reason, text, box = ARGV[1], ARGV[2], ARGV[4], ARGV[6], ARGV[7], ARGV[8]
local state = get(id, 'state')
if epoch ~= '' then
  local owner = check_owner(id, box, epoch)
  if owner == 'older' then return { 2 } end
  if owner == 'lost' then return { 0, state, get(id, 'epoch') } end
end
local allowed = false
for _, source in ipairs(cjson.decode(ARGV[3])) do allowed = allowed or source == state end
if not allowed then return { 0, state, get(id, 'epoch') } end
local fields = cjson.decode(ARGV[5])
date_checkpoint(id, fields, now())
set(id, fields)
if (fields.lacks or '') ~= '' and fields.lacks ~= '{}' then redis.call('SADD', P .. 'lacking', id) end
local lease, at = tonumber(ARGV[9]), nil
if lease then
  at = now_and_detect_restart()
  redis.call('ZADD', P .. 'leases', at + lease, id)
else
  at = now()
end
return { 1, finish_or_requeue(id, to, reason, text, at) }
