-- report(id, epoch, lease in ms, fields as JSON, log text, box or '', bytes of log before that text or '')
-- -> {1, wish, checkpoint request or 0, 1 if it is to be pinned, steps that are kept as JSON} | {0} | {2} this server knows less than the owner
-- The owner reports progress and renews its lease; a stale owner gets {0}.
local MARK_MS, MOST_MARKS, MOST_HELD_AT_ONCE = 10000, 100, 1000
local id, epoch, lease, text = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local owner = check_owner(id, ARGV[6], epoch)
if owner ~= 'ours' then return { owner == 'older' and 2 or 0 } end
local at = now_and_detect_restart()
local fields = cjson.decode(ARGV[4])
local was = get(id, 'wandb_run_id')
if (fields.wandb_run_id or was) ~= was and get(id, 'wandb_url') ~= '' then
  note(id, at, '', get(id, 'wandb_url') .. ' was deleted at WandB: it goes on as ' .. tostring(fields.wandb_run_id))
end
-- What came from ModelScope without being compared with the Hub: {repository: commit}.
local known_of = decoded(get(id, 'uncompared'))
for name, commit in pairs(decoded(fields.uncompared or '')) do
  if known_of[name] ~= commit then
    note(id, at, '', name .. ' came from ModelScope (its commit ' .. tostring(commit):sub(1, 8) .. '), not compared with the Hub')
  end
end
fields.updated_ms = at
date_checkpoint(id, fields, at)
set(id, fields)
redis.call('ZADD', P .. 'leases', at + lease, id)
local known = whole(get(id, 'log_bytes'), 0)
local from = tonumber(ARGV[7]) or known
-- What is here already was said before, and the answer got lost.
if known > from then text = text:sub(known - from + 1) end
if text ~= '' then
  -- log_marks: [[ms, bytes of the log before what was reported then], …], for `pi0q logs --since`.
  local marks = decoded(get(id, 'log_marks'))
  local last = marks[#marks]
  if at - whole(type(last) == 'table' and last[1], 0) >= MARK_MS then
    marks[#marks + 1] = { at, math.max(known, from) }
    if #marks > MOST_MARKS then table.remove(marks, 1) end
    set(id, { log_marks = cjson.encode(marks) })
  end
  local length = redis.call('APPEND', P .. 'tail:' .. id, text)
  set(id, { log_bytes = math.max(known, from) + #text })
  if length > TAIL_BYTES then
    local tail = redis.call('GETRANGE', P .. 'tail:' .. id, -TAIL_BYTES, -1)
    -- The cut may have gone through a character: what is left of it would not be UTF-8.
    tail = tail:gsub('^[\128-\191]+', '')
    redis.call('SET', P .. 'tail:' .. id, tail)
  end
end
if get(id, 'budget') ~= '' then keep_to_budget(id, at) end
if keep_to_users_budget(id, at) then
  -- No box is to be started for those that wait.
  for _, other in ipairs(redis.call('ZRANGE', P .. 'live', 0, MOST_HELD_AT_ONCE - 1)) do
    local over = get(other, 'state') == 'queued' and get(other, 'submitter') == get(id, 'submitter') and over_budget(other)
    if over then
      set(other, { held = over })
      finish_or_requeue(other, 'waiting', 'held', 'held ' .. over, at)
    end
  end
end
if text ~= '' or ARGV[4] ~= '{}' then announce(id) end
local wished, pinned = whole(get(id, 'save_wish'), 0), whole(get(id, 'save_pin'), 0)
if pinned > 0 and pinned <= whole(get(id, 'save_served'), 0) then
  -- Once: its user may end that again.
  if fields.save_step and fields.save_step ~= '' then pin(id, tonumber(fields.save_step), true) end
  set(id, { save_pin = '' })
end
if wished <= whole(get(id, 'save_served'), 0) then wished = 0 end
return { 1, get(id, 'wish'), wished, wished > 0 and pinned == wished and 1 or 0, protected_steps(id) }
