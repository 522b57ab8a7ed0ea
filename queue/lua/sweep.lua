-- sweep(ms between two sweeps, runs without a new checkpoint that end a job) -> ids that were repaired; any box may call it
-- One step of two milliseconds, however many jobs there are: some jobs whose lease ran out are next in the queue again; if
-- these are few, a slice of all jobs is compared with index, messages and leases, from where the last step ended (`server`,
-- fields swept and walked). Where a whole site went away, the next step may come a second later.
if not redis.call('SET', P .. 'swept', 1, 'NX', 'PX', ARGV[1]) then return {} end
local at, run_limit, repaired = now_and_detect_restart(), tonumber(ARGV[2]), {}

-- An interruption, counted as transition.ended counts it (tests/queue/test_sweep.py runs both): no attempt is used up,
-- a run without a checkpoint is noted, and what the run before left (a rest, the evidence of its end) is over.
local function interrupt(id)
  local text = get(id, 'box') .. ' was not heard of for the length of a lease'
  local ran, attempt = get(id, 'state') ~= 'claimed', whole(get(id, 'attempt'), 0)
  local runs = whole(get(id, 'fruitless'), 0) + (ran and 1 or 0)
  local crash_loop = runs >= run_limit and get(id, 'wish') ~= 'cancel'
  if ran and not crash_loop then attempt = math.max(0, attempt - 1) end
  set(id, { attempt = attempt, fruitless = runs, rest_seconds = 0, evidence = '{}' })
  if crash_loop then
    return finish_or_requeue(id, 'failed', 'crash_loop', text .. ' (' .. runs .. ' times without a new checkpoint)', at)
  end
  -- A job that is to be cancelled is never put back: `finish_or_requeue` ends it so.
  return finish_or_requeue(id, 'queued', 'lease_expired', text, at)
end

local EXPIRED, SLICE, CAREFUL_SLICE, CALLED, SOON_MS = 15, 60, 20, 20, 1000

local function submitted(id) return tonumber(redis.call('ZSCORE', P .. 'live', id)) or 0 end

local expired = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', at, 'LIMIT', 0, EXPIRED)
-- The youngest first: of those that come back together the oldest is next.
table.sort(expired, function(a, b) return submitted(a) > submitted(b) end)
for _, id in ipairs(expired) do
  if OWNED[get(id, 'state')] then
    interrupt(id)
    repaired[#repaired + 1] = id
  else
    redis.call('ZREM', P .. 'leases', id)
  end
end
if #expired == EXPIRED and tonumber(ARGV[1]) > SOON_MS then redis.call('PEXPIRE', P .. 'swept', SOON_MS) end

-- Whether the record's message is in Celery's list. Looked up only where numbers differ: it takes the server longest.
local balanced = messages() == redis.call('HLEN', P .. 'waiting')
local function has_message(id) return balanced or spot_of(id, queue_of(id)) ~= nil end

local function compare(id, indexed)
  local state = get(id, 'state')
  if state == 'queued' then
    if indexed then lift(id, at) end
    if indexed and has_message(id) or get(id, 'message') == '' then return end
    if has_message(id) then
      index(id, redis.call('HINCRBY', P .. 'order', 'first', -1))
      changed(id)
    elseif indexed then
      push(id, true)
    else
      enqueue_first(id)
    end
    note(id, at, '', 'its message was lost; it is back in the queue')
    announce(id)
    repaired[#repaired + 1] = id
  elseif indexed then
    unqueue(id)
  elseif state == 'waiting' then
    if get(id, 'trials') ~= '' then
      count_trials(id, at)
    elseif try_release(id, at, 'what it waited for is over') then
      repaired[#repaired + 1] = id
    end
  elseif OWNED[state] and not redis.call('ZSCORE', P .. 'leases', id) then
    redis.call('ZADD', P .. 'leases', at + whole(server('regroup'), 60000), id)
  end
end

-- Compares a slice of Celery's lists with the index: notes where messages lie, and removes copies and what was left of
-- jobs that wait no more. Messages that are not pi0q's are not its to remove.
local function walk_messages()
  local list, from = server('walked'):match('(%d):(%d+)')
  list, from = tonumber(list) or 1, tonumber(from) or 0
  local queue = LISTS[list]
  local found = redis.call('LRANGE', P .. queue, -from - SLICE, -from - 1)
  local ids, removed, taken, right = {}, false, 0, order(queue)
  for i, message in ipairs(found) do ids[i] = job_of(message) or '' end
  local spots = #found > 0 and redis.call('HMGET', P .. 'spots', unpack(ids)) or {}
  for i = #found, 1, -1 do
    local id, distance = ids[i], from + #found - i - taken
    local state = get(id, 'state')
    -- Once one was removed, others may lie elsewhere.
    local there = state ~= '' and (not removed or redis.call('LINDEX', P .. queue, exact(-1 - distance)) == found[i])
    if there and (state ~= 'queued' or spots[i] ~= exact(right + distance + taken)) then
      if state ~= 'queued' or spot_of(id, queue_of(id), found[i]) then
        pull_at(queue, distance)
        removed, taken = true, taken + (distance == 0 and 1 or 0)
        if state ~= 'queued' then redis.call('HDEL', P .. 'spots', id) end
      else
        redis.call('HSET', P .. 'spots', id, exact(order(queue) + distance))
      end
    end
  end
  if #found < SLICE then list, from = list % #LISTS + 1, 0 else from = from + #found end
  redis.call('HSET', P .. 'server', 'walked', list .. ':' .. from)
  return #found
end

call_again(at, CALLED)
release_due(at, CALLED)
if #expired < EXPIRED and adopt(SLICE) then
  adopt_strays()
  local wanted = balanced and SLICE or CAREFUL_SLICE
  local after = server('swept')
  local slice = redis.call('ZRANGEBYSCORE', P .. 'live', after == '' and '-inf' or '(' .. after, '+inf', 'WITHSCORES',
                           'LIMIT', 0, wanted)
  local ids = {}
  for i = #slice - 1, 1, -2 do ids[#ids + 1] = slice[i] end
  local classes = #ids > 0 and redis.call('HMGET', P .. 'waiting', unpack(ids)) or {}
  for i, id in ipairs(ids) do compare(id, classes[i] and true) end
  redis.call('HSET', P .. 'server', 'swept', #slice == 2 * wanted and slice[#slice] or '')
  local left = #LISTS
  repeat
    left = left - 1
  until walk_messages() > 0 or left == 0
end
return repaired
