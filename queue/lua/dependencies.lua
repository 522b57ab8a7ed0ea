-- Jobs that start after other jobs, or not before a time. Every script has this text behind common.lua.
--
-- A record says what it waits for: `awaits` ({job: ok | any} as JSON), `start_ms`, and `start_job`, the job whose last
-- checkpoint it starts from. The transition that ends a job releases its dependants; the sweep does so once more.

-- Returns the job that has gone on from this one last: a retry takes the place of what it continues.
local function last_of(id)
  local seen, after = {}, get(id, 'continued')
  while after ~= '' and not seen[after] and get(after, 'state') ~= '' do
    seen[after] = true
    id, after = after, get(after, 'continued')
  end
  return id
end

local function set_awaits(id, awaits) set(id, { awaits = next(awaits) and cjson.encode(awaits) or '' }) end

local function called(id) return (get(id, 'name') == '' and 'a job that is gone' or get(id, 'name')) .. ' (' .. id .. ')' end

-- Takes out of `awaits` what has come true. Returns the jobs still awaited and those that can no longer come true.
local function awaited(id)
  local awaits, open, failed, changed = decoded(get(id, 'awaits')), {}, {}, false
  for job, how in pairs(awaits) do
    local state = get(job, 'state')
    if state == 'succeeded' or (how == 'any' and (ENDED[state] or state == '')) then
      awaits[job], changed = nil, true
      redis.call('SREM', P .. 'dependants:' .. job, id)
    else
      -- Lost with older data of the server, or never written by who submitted it.
      redis.call('SADD', P .. 'dependants:' .. job, id)
      local list = (ENDED[state] or state == '') and failed or open
      list[#list + 1] = job
    end
  end
  if changed then set_awaits(id, awaits) end
  table.sort(open)
  table.sort(failed)
  return open, failed
end

-- Returns the newest checkpoint that a job, or what went on from it, has left: step, manifest and LeRobot's version.
local function last_checkpoint(id)
  local newest, seen = nil, {}
  while id ~= '' and not seen[id] do
    seen[id] = true
    for _, field in ipairs({ 'copied', 'checkpoint' }) do
      local saved = decoded(get(id, field))
      if type(saved.step) == 'number' and type(saved.manifest) == 'string' and (not newest or saved.step >= newest.step) then
        newest = { step = saved.step, manifest = saved.manifest, lerobot = get(id, 'lerobot') }
      end
    end
    id = get(id, 'continued')
  end
  return newest
end

-- Fixes the checkpoint that the job starts from; false where the other job has left none.
local function fix_start(id)
  local source = get(id, 'start_job')
  if source == '' then return true end
  local found = last_checkpoint(source)
  if not found then return false end
  found.job = source
  set(id, { starts_from = cjson.encode(found), start_job = '' })
  keep_start(id, true)
  return true
end

-- Returns reason and text where the job may not be queued yet; nil where nothing keeps it back.
kept_back = function(id, at)
  local awaits, starts, source = get_all(id, 'awaits', 'start_ms', 'start_job')
  if awaits == '' and starts == '' and source == '' then return sweep_keeps(id) end
  local open, failed = awaited(id)
  if #failed > 0 then
    local state = get(failed[1], 'state')
    return 'after_failed', called(failed[1]) .. (state == '' and '' or ' ' .. (state == 'cancelled' and 'was cancelled' or state))
      .. ', and it starts after a success of that'
  end
  if #open > 0 then
    local names = {}
    for k = 1, math.min(#open, 3) do names[k] = called(open[k]) end
    return 'after_job', 'starts after ' .. table.concat(names, ', ') .. (#open > 3 and ' and ' .. (#open - 3) .. ' more' or '')
  end
  if whole(starts, 0) > at then
    redis.call('ZADD', P .. 'timed', starts, id)
    return 'after_time', 'its start time has not come'
  end
  redis.call('ZREM', P .. 'timed', id)
  if not fix_start(id) then
    return 'after_failed', called(source) .. ' has left no verified checkpoint to start from'
  end
  return sweep_keeps(id)
end

-- Queues a waiting job if nothing keeps it back any more, else notes what does.
local function try_release(id, at, text)
  if get(id, 'state') ~= 'waiting' then return false end
  local reason, told = kept_back(id, at)
  if get(id, 'held') ~= '' then return false end
  if not reason then
    set(id, { detail = '' })
    finish_or_requeue(id, 'queued', '', text, at)
    return true
  end
  if get(id, 'reason') ~= reason or get(id, 'detail') ~= told then
    set(id, { reason = reason, detail = told, updated_ms = at })
    note(id, at, reason, told)
    announce(id)
  end
  return false
end

settle_dependants = function(id, at)
  for _, job in ipairs(redis.call('SMEMBERS', P .. 'dependants:' .. id)) do
    local state = get(job, 'state')
    if state == 'waiting' then
      try_release(job, at, called(id) .. ' ended: ' .. get(id, 'state'))
    elseif state == '' or ENDED[state] then
      redis.call('SREM', P .. 'dependants:' .. id, job)
    end
  end
end

forget_conditions = function(id)
  for job in pairs(decoded(get(id, 'awaits'))) do redis.call('SREM', P .. 'dependants:' .. job, id) end
  redis.call('ZREM', P .. 'timed', id)
end

-- Queues the jobs whose start time has come, a few at a time.
local function release_due(at, limit)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'timed', '-inf', at, 'LIMIT', 0, limit)) do
    redis.call('ZREM', P .. 'timed', id)
    try_release(id, at, 'its start time has come')
  end
end

-- Jobs that wait for the job before wait for the one that goes on from it.
local function move_dependants(before, id, at)
  for _, job in ipairs(redis.call('SMEMBERS', P .. 'dependants:' .. before)) do
    local awaits = decoded(get(job, 'awaits'))
    if awaits[before] then
      awaits[id], awaits[before] = awaits[before], nil
      set_awaits(job, awaits)
      redis.call('SADD', P .. 'dependants:' .. id, job)
      try_release(job, at, '')
    end
    redis.call('SREM', P .. 'dependants:' .. before, job)
  end
end
