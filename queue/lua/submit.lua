-- submit(id, fields as JSON, text, key or '', ms that the key is remembered, job that it continues or '', user or '')
-- -> the id of the job that is now there: another one than `id` if the same file was submitted a moment ago (key), or
-- if the job before was continued already, and that one has not ended. Or `over:<jobs>:<bytes>:<most>:<most>`: this is
-- what the user of the server has waiting and may have (`limits`, pi0q server); nothing was written.
local id, fields, text, key, before = ARGV[1], cjson.decode(ARGV[2]), ARGV[3], P .. 'recent:' .. ARGV[4], ARGV[6]
if redis.call('EXISTS', P .. 'job:' .. id) == 1 then return id end
if ARGV[4] ~= '' then
  local twin = redis.call('GET', key)
  if twin and redis.call('ZSCORE', P .. 'live', twin) then return twin end
end
local at, user, bytes = now(), ARGV[7] or '', #ARGV[2]
local most_jobs, most_bytes = hash_field('limits', user):match('^(%d+) (%d+)$')
if most_jobs then
  local own, jobs, size = P .. 'submitted:' .. user, 0, 0
  local mine = redis.call('ZRANGE', own, 0, -1, 'WITHSCORES')
  for i = 1, #mine, 2 do
    local state = get(mine[i], 'state')
    if state == 'queued' or state == 'waiting' then
      jobs, size = jobs + 1, size + mine[i + 1]
    else
      redis.call('ZREM', own, mine[i])
    end
  end
  -- The trials of a sweep come right behind it.
  local count = 1 + whole(decoded(fields.trials or '').total, 0)
  if jobs + count > tonumber(most_jobs) or size + bytes * count > tonumber(most_bytes) then
    return table.concat({ 'over', jobs, size, most_jobs, most_bytes }, ':')
  end
  redis.call('ZADD', own, bytes, id)
end
if ARGV[4] ~= '' then redis.call('SET', key, id, 'PX', ARGV[5]) end
if before ~= '' then
  local continued = get(before, 'continued')
  if redis.call('ZSCORE', P .. 'live', continued) then return continued end
  set(before, { continued = id })
  note(before, at, '', 'continued as ' .. id)
  announce(before)
end
add_job(id, fields, text, before, at)
local over = get(id, 'state') == 'queued' and over_budget(id)
if over then
  set(id, { held = over })
  finish_or_requeue(id, 'waiting', 'held', 'held ' .. over, at)
end
return id
