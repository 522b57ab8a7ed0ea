-- Shared by every script: store.py puts this text before each of them.
--
-- KEYS[1]                 the prefix, `pi0q:`; every key below starts with it.
-- job:<id>        hash    the record of a job; field `message` is its Celery message, word for word; `held` says who
--                         keeps it out of the queue.
-- history:<id>    list    what happened to it, one JSON object an entry, oldest first.
-- tail:<id>       string  the last bytes of its trainer's log.
-- live            zset    jobs that have not ended, by the time they were submitted.
-- ended           zset    jobs that have, by the time they ended.
-- lookup          zset    `i:<id>` and `n:<name>\0<id>`, all of score 0, for prefixes of ids and for names.
-- leases          zset    owned jobs, by the time their lease runs out.
-- owned:<box>     set     jobs that a box owns.
-- promises:<r>    hash    what is promised of one GPU or disk: job -> MiB; field `#` counts its changes.
-- boxes           zset    boxes, by the time they were last heard of.
-- box:<box>       hash    what a box says of itself; field `drain` is its user's: '', drain or now.
-- server          hash    installation: a name for these data, made once. run: the server process that last served
--                         them. at: when it last heard of a box. beats: words of all boxes so far. lease, regroup:
--                         what the last box said they are, ms. until: claims wait for it. older: a box knew more.
-- awaited         set     boxes that claims wait for after a restart of the server.
-- recent:<key>    string  the job that a submit of this very file by this user made a moment ago.
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

local function server(field) return redis.call('HGET', P .. 'server', field) or '' end

local function installation(candidate)
  redis.call('HSETNX', P .. 'server', 'installation', candidate)
  return server('installation')
end

-- Claims wait `span` ms, and no lease runs out before: whoever holds a job can say so first.
local function pause(at, last, span)
  redis.call('HSET', P .. 'server', 'until', at + span)
  local leases = redis.call('ZRANGE', P .. 'leases', 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    redis.call('ZADD', P .. 'leases', at + math.max(leases[i + 1] - last, span), leases[i])
  end
end

-- The time, for scripts that judge or renew leases. A server that came back may have older data (a lost second, an
-- old copy, a promoted replica), and its clock may have jumped: then each lease keeps what it had left, and after a
-- restart claims wait until the boxes that lived when it was last up have said what they hold.
local function present()
  local at, last = now(), tonumber(server('at')) or 0
  local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
  local restarted, span = server('run') ~= run, tonumber(server('regroup')) or 60000
  if last > 0 and (restarted or at - last >= span or last - at > 1000) then
    pause(at, last, span)
    redis.call('DEL', P .. 'awaited')
    local boxes = redis.call('ZREVRANGE', P .. 'boxes', 0, -1, 'WITHSCORES')
    for i = 1, #boxes, 2 do
      local lived = boxes[2] - boxes[i + 1] < (tonumber(server('lease')) or 600000)
      if restarted and lived and redis.call('HGET', P .. 'box:' .. boxes[i], 'status') ~= 'stopped' then
        redis.call('SADD', P .. 'awaited', boxes[i])
      end
    end
    if redis.call('EXISTS', P .. 'awaited') == 0 then redis.call('HSET', P .. 'server', 'until', 0) end
  end
  redis.call('HSET', P .. 'server', 'run', run, 'at', at)
  return at
end

-- What an owner's write meets: `ours`, `lost`, or `older` where its sender knows more than this server.
local function standing(id, box, epoch)
  local known = tonumber(get(id, 'epoch')) or -1
  if tonumber(epoch) > known then return 'older' end
  local same = tonumber(epoch) == known and (box == '' or box == get(id, 'box'))
  return same and OWNED[get(id, 'state')] and 'ours' or 'lost'
end

local function queue_of(id) return P .. get(id, 'queue') end

-- Messages go in at the left and are taken at the right: an interrupted job is next again.
local function enqueue_first(id)
  redis.call('RPUSH', queue_of(id), get(id, 'message'))
  wake(id)
end

-- Adds a step to those whose checkpoints are kept, or takes it out; all of them, as a JSON list.
local function keep(id, step, on)
  local known = get(id, 'kept_steps')
  local steps = {}
  for _, one in ipairs(cjson.decode(known ~= '' and known or '[]')) do
    if one ~= step then steps[#steps + 1] = one end
  end
  if on then steps[#steps + 1] = step end
  table.sort(steps)
  local text = #steps > 0 and cjson.encode(steps) or '[]'
  set(id, { kept_steps = text })
  return text
end

local function unqueue(id) return redis.call('LREM', queue_of(id), 0, get(id, 'message')) end

-- promises: [[resource, changes seen when it was judged, MiB], …]
local function promise(id, promises)
  for _, one in ipairs(promises) do
    redis.call('HSET', P .. 'promises:' .. one[1], id, one[3])
    redis.call('HINCRBY', P .. 'promises:' .. one[1], '#', 1)
  end
end

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
  if to == 'queued' and get(id, 'held') ~= '' then to, reason, text = 'waiting', 'held', get(id, 'held') .. ': ' .. text end
  if get(id, 'wish') == 'stop' then set(id, { wish = '' }) end
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
