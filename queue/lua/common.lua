-- Shared by every script: store.py puts this text before each of them.
--
-- KEYS[1]                 the prefix, `pi0q:`; every key below starts with it.
-- job:<id>        hash    the record of a job; field `message` is its Celery message, word for word.
-- history:<id>    list    what happened to it, one JSON object an entry, oldest first.
-- tail:<id>       string  the last bytes of its trainer's log.
-- live            zset    jobs that have not ended, by the time they were submitted.
-- ended           zset    jobs that have, by the time they ended.
-- lookup          zset    `i:<id>` and `n:<name>\0<id>`, all of score 0, for prefixes of ids and for names.
-- leases          zset    owned jobs, by the time their lease runs out.
-- owned:<box>     set     jobs that a box owns.
-- promises:<r>    hash    what is promised of one GPU or disk: job -> MiB; field `#` counts its changes.
-- boxes           zset    boxes, by the time they were last heard of.
-- box:<box>       hash    what a box says of itself.
-- jobs*           list    Celery's queue of waiting messages, one list a priority; the right end is next.
-- box.<box>       list    Celery's queue of one box.
-- changes         channel the id of a job, or `box:<box>`, whenever something of it changed.
-- wish:<id>       channel for the owner of a job: its user wishes something.
-- wake            channel for idle boxes: a job came into the queue, or an owner gave back what it held.
local P = KEYS[1]
local HISTORY, TAIL_BYTES = 200, 32768
local OWNED = { claimed = true, preparing = true, running = true }
local ENDED = { succeeded = true, failed = true, cancelled = true }

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function get(id, field) return redis.call('HGET', P .. 'job:' .. id, field) or '' end

local function set(id, fields)
  for name, value in pairs(fields) do redis.call('HSET', P .. 'job:' .. id, name, value) end
end

local function announce(id) redis.call('PUBLISH', P .. 'changes', id) end

local function wake(id) redis.call('PUBLISH', P .. 'wake', id) end

local function note(id, at, reason, text)
  local entry = { at_ms = at, state = get(id, 'state'), epoch = tonumber(get(id, 'epoch')) or 0,
                  box = get(id, 'box'), reason = reason, text = text }
  redis.call('RPUSH', P .. 'history:' .. id, cjson.encode(entry))
  redis.call('LTRIM', P .. 'history:' .. id, -HISTORY, -1)
end

local function queue_of(id) return P .. get(id, 'queue') end

-- Messages go in at the left and are taken at the right: an interrupted job is next again.
local function enqueue_first(id)
  redis.call('RPUSH', queue_of(id), get(id, 'message'))
  wake(id)
end

local function unqueue(id) return redis.call('LREM', queue_of(id), 0, get(id, 'message')) end

-- Gives back all that an owner held: promises, lease, place on its box.
local function release(id)
  local promised = get(id, 'promises')
  if promised ~= '' then
    for _, promise in ipairs(cjson.decode(promised)) do
      redis.call('HDEL', P .. 'promises:' .. promise[1], id)
      redis.call('HINCRBY', P .. 'promises:' .. promise[1], '#', 1)
    end
  end
  redis.call('ZREM', P .. 'leases', id)
  redis.call('SREM', P .. 'owned:' .. get(id, 'box'), id)
  redis.call('LREM', P .. 'box.' .. get(id, 'box'), 0, get(id, 'message'))
  set(id, { promises = '', gpus = '[]', vram_now_mib = 0, disk_now_mib = 0 })
  wake(id)
end

-- Ends an owned or waiting job, or puts it back in the queue; the caller has checked that it may.
local function settle(id, to, reason, text, at)
  local from = get(id, 'state')
  if to == 'queued' and get(id, 'wish') == 'cancel' then
    to, reason, text = 'cancelled', 'cancelled_by_user', 'cancelled while interrupted: ' .. text
  end
  if from == 'queued' then unqueue(id) end
  if OWNED[from] and not OWNED[to] then release(id) end
  set(id, { state = to, updated_ms = at, reason = reason })
  if reason ~= '' then set(id, { detail = text }) end
  if not OWNED[to] then set(id, { phase = '' }) end
  if to == 'queued' then
    set(id, { queued_ms = at })
    enqueue_first(id)
  elseif ENDED[to] then
    set(id, { ended_ms = at, wish = '' })
    redis.call('ZREM', P .. 'live', id)
    redis.call('ZADD', P .. 'ended', at, id)
  end
  note(id, at, reason, text)
  announce(id)
  return to
end
