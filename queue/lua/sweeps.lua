-- Sweeps: one record that stands for many trials. Every script has this text behind dependencies.lua.
--
-- The record of a sweep has `trials` (counts of its trials and the best of them, as JSON) and `max_parallel`; no box runs
-- it, and it ends with its last trial. The record of a trial has `sweep`, the id of that record, and `sweep_number`.
-- sweep:<id>      hash    number of a trial -> its job, or the job that has gone on from it last.
-- active:<id>     set     trials that are queued or owned.
-- turns:<id>      zset    trials that wait because max_parallel others are active, by their numbers.

-- Whether so many trials are active that this one has to wait.
local function must_wait(id, sweep)
  local most = whole(get(sweep, 'max_parallel'), 0)
  return most > 0 and redis.call('SISMEMBER', P .. 'active:' .. sweep, id) == 0
    and redis.call('SCARD', P .. 'active:' .. sweep) >= most and most
end

-- Returns reason and text where its sweep keeps the job out of the queue; nil where it does not.
sweep_keeps = function(id)
  if get(id, 'trials') ~= '' then return 'sweep', '' end
  local sweep = get(id, 'sweep')
  if sweep == '' then return nil end
  local most = must_wait(id, sweep)
  if not most then
    redis.call('ZREM', P .. 'turns:' .. sweep, id)
    return nil
  end
  redis.call('ZADD', P .. 'turns:' .. sweep, whole(get(id, 'sweep_number'), 0), id)
  return 'sweep_turn', 'at most ' .. most .. ' trials of its sweep at a time'
end

-- Counts the trials anew; ends the sweep with its last one.
local function count_trials(sweep, at)
  local told = decoded(get(sweep, 'trials'))
  local metric = type(told.metric) == 'string' and told.metric or 'loss'
  local kind = type(told.kind) == 'string' and told.kind or 'grid'
  local counts = { kind = kind, total = whole(told.total, 0), made = 0, succeeded = 0, failed = 0, cancelled = 0, metric = metric }
  local trials = redis.call('HGETALL', P .. 'sweep:' .. sweep)
  for i = 1, #trials, 2 do
    local number, id = whole(trials[i], 0), trials[i + 1]
    local state, value = get_all(id, 'state', metric)
    counts.made = counts.made + 1
    -- A job that was removed is none that is still to come.
    state = state == '' and 'cancelled' or state
    if ENDED[state] then counts[state] = counts[state] + 1 end
    value = state == 'succeeded' and tonumber(value)
    -- No number equals itself if it is none.
    if value and value == value and (not counts.best or value < counts.best) then
      counts.best, counts.best_number, counts.best_id = value, number, id
    end
  end
  if counts.best then counts.best_values = decoded(get(counts.best_id, 'sweep_values')) end
  local text = cjson.encode(counts)
  if text ~= get(sweep, 'trials') then
    set(sweep, { trials = text, updated_ms = at })
    announce(sweep)
  end
  local done = counts.succeeded + counts.failed + counts.cancelled
  if get(sweep, 'state') ~= 'waiting' or done < counts.total then return end
  local to = counts.succeeded > 0 and 'succeeded' or counts.failed > 0 and 'failed' or 'cancelled'
  local reasons = { succeeded = 'finished', failed = 'sweep', cancelled = 'cancelled_by_user' }
  local said = counts.succeeded .. ' of ' .. counts.total .. ' trials succeeded'
  finish_or_requeue(sweep, to, reasons[to], said, at)
end

-- What follows for its sweep from a trial's new state.
trial_moved = function(id, at)
  local sweep, state = get_all(id, 'sweep', 'state')
  if state == 'queued' or OWNED[state] then
    redis.call('SADD', P .. 'active:' .. sweep, id)
    return
  end
  if ENDED[state] then redis.call('ZREM', P .. 'turns:' .. sweep, id) end
  if redis.call('SREM', P .. 'active:' .. sweep, id) == 1 then
    local first = redis.call('ZRANGE', P .. 'turns:' .. sweep, 0, 0)[1]
    while first do
      redis.call('ZREM', P .. 'turns:' .. sweep, first)
      if try_release(first, at, 'its turn in the sweep') or redis.call('ZSCORE', P .. 'turns:' .. sweep, first) then break end
      first = redis.call('ZRANGE', P .. 'turns:' .. sweep, 0, 0)[1]
    end
  end
  if ENDED[state] then count_trials(sweep, at) end
end

-- Makes the record of a new job and queues it, or lets it wait. It takes the place of the job `before`, '' for none.
local function add_job(id, fields, text, before, at)
  local own = { state = 'waiting', created_ms = at, updated_ms = at, epoch = 0, installation = installation(id) }
  -- What is kept of the job before is kept of this one: it takes over its checkpoints.
  if before ~= '' then own.starters = get(before, 'starters') end
  for name, value in pairs(own) do fields[name] = value end
  set(id, fields)
  keep_start(id, true)
  -- Jobs of one millisecond keep the order in which they came.
  local youngest = tonumber(redis.call('ZREVRANGE', P .. 'live', 0, 0, 'WITHSCORES')[2] or 0)
  redis.call('ZADD', P .. 'live', math.max(at, youngest + 1), id)
  redis.call('ZADD', P .. 'lookup', 0, 'i:' .. id, 0, 'n:' .. fields.name .. '\0' .. id)
  local awaits = decoded(get(id, 'awaits'))
  for job, how in pairs(decoded(get(id, 'awaits'))) do
    awaits[job] = nil
    awaits[last_of(job)] = how
  end
  if next(awaits) then set_awaits(id, awaits) end
  local sweep = get(id, 'sweep')
  if sweep ~= '' then redis.call('HSET', P .. 'sweep:' .. sweep, get(id, 'sweep_number'), id) end
  if get(id, 'trials') ~= '' then redis.call('ZADD', P .. 'sweeps', at, id) end
  local reason, told = kept_back(id, at)
  if reason then
    set(id, { reason = reason, detail = told })
    redis.call('ZADD', P .. 'conditional', at, id)
  else
    set(id, { state = 'queued', queued_ms = at })
    enqueue_last(id)
  end
  note(id, at, reason or '', text .. ((told or '') ~= '' and '; ' .. told or ''))
  announce(id)
  if before ~= '' then move_dependants(before, id, at) end
  if sweep ~= '' then trial_moved(id, at) end
  if sweep ~= '' and before ~= '' then count_trials(sweep, at) end
end
