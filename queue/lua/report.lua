-- report(id, epoch, lease in ms, fields as JSON, log text, box or '', bytes of log before that text or '')
-- -> {1, wish, save wished or 0, 1 if it is to be pinned, steps kept as JSON} | {0} | {2} this server knows less than the owner
-- The owner says how far it is and renews its lease; a former owner is told that it is one.
local id, epoch, lease, text = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local standing = standing(id, ARGV[6], epoch)
if standing ~= 'ours' then return { standing == 'older' and 2 or 0 } end
local at = present()
local fields = cjson.decode(ARGV[4])
local was = get(id, 'wandb_run_id')
if (fields.wandb_run_id or was) ~= was and get(id, 'wandb_url') ~= '' then
  note(id, at, '', get(id, 'wandb_url') .. ' was deleted at WandB: it goes on as ' .. fields.wandb_run_id)
end
set(id, fields)
set(id, { updated_ms = at })
redis.call('ZADD', P .. 'leases', at + lease, id)
local known = tonumber(get(id, 'log_bytes')) or 0
local from = tonumber(ARGV[7]) or known
-- What is here already was said before, and the answer got lost.
if known > from then text = text:sub(known - from + 1) end
if text ~= '' then
  local length = redis.call('APPEND', P .. 'tail:' .. id, text)
  set(id, { log_bytes = math.max(known, from) + #text })
  if length > TAIL_BYTES then
    local tail = redis.call('GETRANGE', P .. 'tail:' .. id, -TAIL_BYTES, -1)
    -- The cut may have gone through a character: what is left of it would not be UTF-8.
    tail = tail:gsub('^[\128-\191]+', '')
    redis.call('SET', P .. 'tail:' .. id, tail)
  end
end
if text ~= '' or ARGV[4] ~= '{}' then announce(id) end
local wished, pinned = tonumber(get(id, 'save_wish')) or 0, tonumber(get(id, 'save_pin')) or 0
if pinned > 0 and pinned <= (tonumber(get(id, 'save_served')) or 0) then
  -- Once: its user may end that again.
  if fields.save_step and fields.save_step ~= '' then keep(id, tonumber(fields.save_step), true) end
  set(id, { save_pin = '' })
end
if wished <= (tonumber(get(id, 'save_served')) or 0) then wished = 0 end
return { 1, get(id, 'wish'), wished, wished > 0 and pinned == wished and 1 or 0, get(id, 'kept_steps') }
