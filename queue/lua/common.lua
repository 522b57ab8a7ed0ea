-- Shared by every script: store.py puts this text before each of them.
--
-- KEYS[1]                 the prefix, `pi0q:`; every key below starts with it.
-- job:<id>        hash    the record of a job; field `message` is its Celery message, word for word; `held` says who
--                         keeps it out of the queue.
-- history:<id>    list    what happened to it, one JSON object an entry, oldest first.
-- tail:<id>       string  the last bytes of its trainer's log.
-- tail:<id>:ranks string  the same of its ranks other than 0, where it trains on several GPUs: a JSON object, rank -> text.
-- curve:<id>      list    its loss, learning rate and step time by step, thinned out, a JSON list a point (jobs/curve.py).
-- live            zset    jobs that have not ended, by the time they were submitted.
-- ended           zset    jobs that have, by the time they ended.
-- held            zset    what jobs took of boxes, by when a claim ended: one JSON object a claim, see jobs/cost.py. It
--                         outlives its job; MOST_HELD of them.
-- holds:<id>      list    the same of one job, oldest first.
-- prices          hash    box -> what it costs an hour as JSON.
-- budgets         hash    user (`submitter` of jobs) -> what their jobs may cost, and have cost since then, as JSON.
-- lookup          zset    `i:<id>` and `n:<name>\0<id>`, all of score 0, for prefixes of ids and for names.
-- leases          zset    owned jobs, by the time their lease runs out.
-- owned:<box>     set     jobs that a box owns.
-- promises:<r>    hash    what is promised of one GPU or disk: job -> MiB; field `#` counts its changes.
-- boxes           zset    boxes, by the time they were last heard of.
-- box:<box>       hash    what a box says of itself; field `drain` is its user's: '', drain or now.
-- refusals:<box>  hash    why the box does not take a job: job -> its refusals as JSON.
-- peaks           hash    shape of a training -> its measured VRAM as JSON (jobs/vram_peak.py).
-- peaks:age       zset    shapes by the time when they were last measured.
-- paces           hash    shape of a training -> the seconds that a step of it took, by kind of card, as JSON (pace.lua).
-- paces:age       zset    shapes by the time when their pace was last measured.
-- plans:<box>     hash    what a job would take of the box's disk: job -> its plan as JSON.
-- server          hash    installation: a name for these data, made once. run: the server process that last served
--                         them. at: when it last heard of a box. beats: heartbeats of all boxes so far. lease, regroup:
--                         what the last box said they are, ms. until: claims wait for it. older: a box knew more.
-- awaited         set     boxes that claims wait for after a restart of the server.
-- limits          hash    user of the server -> jobs and bytes that may wait, as `<jobs> <bytes>` (ops/server).
-- submitted:<u>   zset    jobs of a user of the server that may wait still, by the bytes of their records.
-- recent:<key>    string  the job that a submit of this very file by this user made a moment ago.
-- jobs*           list    Celery's queue of waiting messages, one list a priority; the right end is next unless jobs in
--                         the middle were taken.
-- waiting         hash    job -> its class, `<GPUs>:<MiB of VRAM on each>`, and `:<hash of its choice>` where its file
--                         chooses boxes: all jobs in state `queued`.
-- choices         hash    such a class -> the choice as JSON (jobs/box_choice.py).
-- class:<class>   zset    jobs of a class by their place in the queue.
-- classes         zset    classes that have jobs, by GPUs * SPAN + MiB.
-- order           hash    last, first: places given out at the end and at the head. seq: changes so far. moved: places
--                         given to jobs of a version without an index. jobs*: see `spots`. reserved: changes of
--                         reservations. pressed: classes of jobs that come first, as JSON. fair: 1 with fair share
--                         between users. served: places that fair share has gone through. given: places it gave.
-- shares          zset    users with waiting jobs, by the place behind their last one: with fair share alone.
-- news            zset    waiting jobs by their last change: told to all boxes, moved in the queue, or preflight recorded.
-- reserved        hash    waiting job -> GPUs that are kept for it, as JSON: box, cards, from (ms when it may start, -1 if
--                         nobody knows), expires.
-- planned         string  somebody has planned reservations a moment ago; planned:again: at once.
-- unchecked       zset    waiting jobs whose preflight no box was asked for yet, by place.
-- lacking         set     jobs that were held because no box had what they read; some of them may not be any more.
-- former:<box>    set     waiting jobs that this box owned last.
-- spots           hash    job -> where its message lies in Celery's list, counted from the right end; what was taken
--                         from the right end since (`order`, field jobs*) comes off.
-- idle            hash    box that waits for a job -> the free MiB of its GPUs as a JSON list, the most first.
-- idle:<k>        zset    such boxes, by the free MiB of their k-th best GPU (0 for k = 0).
-- placed          hash    box that is up -> number of its GPUs.
-- cards:<k>       zset    such boxes, by the MiB of their k-th largest GPU; cards:0 by when they were last heard of.
-- room:<k>        zset    those that take jobs now, by the free MiB of their k-th best GPU that has no job; 0 for k = 0.
-- shared:<k>      zset    the same for a job that shares its cards: GPUs whose jobs share theirs count, too.
-- removed         zset    jobs whose records an admin had removed, by when: what is gone besides was damaged. Admins alone may
--                         write it (ops/server/roles.py); the last 100,000.
-- dependants:<id> set     waiting jobs that start after this one; field `awaits` of their records says on which terms.
-- timed           zset    waiting jobs by the time, ms, before which they do not start.
-- conditional     zset    jobs that wait for another job or a time, and that nobody holds, by since when.
-- sweeps          zset    sweeps that have not ended, by the time they were submitted; the keys of one: sweeps.lua.
-- calls           zset    `<job>:<tries>`, by when the next boxes are to be woken for it.
-- wake:<box>      channel for one box: a job's id, `room` (it gave something back), `postrun`, or '' (its own state).
-- box.<box>       list    Celery's queue of one box.
-- changes         channel the id of a job, or `box:<box>`, whenever something of it changed.
-- wish:<id>       channel for the owner of a job: its user wishes something.
-- wake            channel for all boxes: claims may go on. Boxes of an older version hear of drains by it.
local P = KEYS[1]
local HISTORY, TAIL_BYTES = 200, 32768
local OWNED = { claimed = true, preparing = true, running = true }
local ENDED = { succeeded = true, failed = true, cancelled = true }

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Returns a field of a hash; '' where there is none, or where the key holds something else: anyone may have written it.
local function hash_field(key, field)
  local found = redis.pcall('HGET', P .. key, field)
  return type(found) == 'string' and found or ''
end

local function get(id, field) return hash_field('job:' .. id, field) end

-- Returns the whole number in a text, the default for anything else: one damaged record must not stop a script.
local function whole(text, default)
  local number = tonumber(text)
  if not number or not (number >= 0 and number <= 9007199254740992) then return default end
  return math.floor(number)
end

-- Returns the JSON list or object in a text, an empty one for anything else.
local function decoded(text)
  local good, value = pcall(cjson.decode, text)
  return good and type(value) == 'table' and value or {}
end

-- Keeps what was measured of a shape in the hash `name`; the shapes that were measured longest ago go, down to `most`.
local function keep_shape(name, shape, entry, at, most)
  local age = P .. name .. ':age'
  redis.call('HSET', P .. name, shape, cjson.encode(entry))
  redis.call('ZADD', age, at, shape)
  local over = redis.call('ZCARD', age) - most
  if over <= 0 then return end
  for _, old in ipairs(redis.call('ZRANGE', age, 0, over - 1)) do redis.call('HDEL', P .. name, old) end
  redis.call('ZREMRANGEBYRANK', age, 0, over - 1)
end

-- Returns several fields of a record as `get` does.
local function get_all(id, ...)
  local found = redis.pcall('HMGET', P .. 'job:' .. id, ...)
  for k = 1, select('#', ...) do found[k] = type(found[k]) == 'string' and found[k] or '' end
  return unpack(found, 1, select('#', ...))
end

local function set(id, fields)
  local words = {}
  for name, value in pairs(fields) do words[#words + 1], words[#words + 2] = name, value end
  if #words > 0 then redis.call('HSET', P .. 'job:' .. id, unpack(words)) end
end

-- Notes when a checkpoint is reported for the first time; one that was brought to another box is as old as it was.
local function date_checkpoint(id, fields, at)
  local hash = '"manifest": *"(%x+)"'
  local new = type(fields.checkpoint) == 'string' and fields.checkpoint:match(hash)
  if new and new ~= get(id, 'checkpoint'):match(hash) then fields.checkpoint_ms = at end
end

local function announce(id) redis.call('PUBLISH', P .. 'changes', id) end

local function wake(box, word) redis.call('PUBLISH', P .. 'wake:' .. box, word) end

local function note(id, at, reason, text)
  local state, epoch, box, step = get_all(id, 'state', 'epoch', 'box', 'step')
  local entry = { at_ms = at, state = state, epoch = whole(epoch, 0), box = box, reason = reason, text = text }
  if step ~= '' then entry.step = whole(step, 0) end
  local entries = redis.call('RPUSH', P .. 'history:' .. id, cjson.encode(entry))
  if entries > HISTORY then redis.call('LTRIM', P .. 'history:' .. id, -HISTORY, -1) end
end

local function server(field) return hash_field('server', field) end

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

-- Returns the time, for scripts that judge or renew leases. A server that came back may have older data (a lost second, an
-- old copy, a promoted replica), and its clock may have jumped: then each lease keeps what it had left, and after a
-- restart claims wait until the boxes that lived when it was last up have said what they hold.
local function now_and_detect_restart()
  local at, last = now(), whole(server('at'), 0)
  local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
  local restarted, span = server('run') ~= run, whole(server('regroup'), 60000)
  if last > 0 and (restarted or at - last >= span or last - at > 1000) then
    pause(at, last, span)
    redis.call('DEL', P .. 'awaited')
    local boxes = redis.call('ZREVRANGE', P .. 'boxes', 0, -1, 'WITHSCORES')
    for i = 1, #boxes, 2 do
      local lived = boxes[2] - boxes[i + 1] < whole(server('lease'), 600000)
      if restarted and lived and hash_field('box:' .. boxes[i], 'status') ~= 'stopped' then
        redis.call('SADD', P .. 'awaited', boxes[i])
      end
    end
    if redis.call('EXISTS', P .. 'awaited') == 0 then redis.call('HSET', P .. 'server', 'until', 0) end
  end
  redis.call('HSET', P .. 'server', 'run', run, 'at', at)
  return at
end

-- Whether the sender still owns the job: `ours`, `lost`, or `older` where it knows more than this server. A state that
-- pi0q never writes, or an owned job without a box, is damage: whoever has the claim knows better.
local STATES = { waiting = true, queued = true, claimed = true, preparing = true, running = true,
                 succeeded = true, failed = true, cancelled = true }
local function check_owner(id, box, epoch)
  local state, claim, owner = get_all(id, 'state', 'epoch', 'box')
  local known = whole(claim, -1)
  local damaged = not STATES[state] or OWNED[state] and owner == ''
  if tonumber(epoch) > known or tonumber(epoch) == known and damaged then return 'older' end
  local same = tonumber(epoch) == known and (box == '' or box == owner)
  return same and OWNED[state] and 'ours' or 'lost'
end

-- Keeps the checkpoint from which a job starts as long as the job has not ended (`on`), or lets it go: the job that made
-- it, and each that went on from that one, lists in `starters` the steps by the jobs that start from them.
local function keep_start(id, on)
  local start, seen = decoded(get(id, 'starts_from')), {}
  local source = type(start.job) == 'string' and start.job or ''
  while source ~= '' and not seen[source] and get(source, 'state') ~= '' do
    seen[source] = true
    local starters = decoded(get(source, 'starters'))
    starters[id] = on and whole(start.step, 0) or nil
    set(source, { starters = next(starters) and cjson.encode(starters) or '' })
    announce(source)
    redis.call('PUBLISH', P .. 'wish:' .. source, 'keep')
    source = get(source, 'continued')
  end
end

-- Returns the steps whose checkpoints the owner keeps, as a JSON list: those that are pinned, and those that jobs start from.
local function protected_steps(id)
  local steps, seen = {}, {}
  local function add(step)
    if type(step) == 'number' and not seen[step] then
      seen[step] = true
      steps[#steps + 1] = step
    end
  end
  for _, step in ipairs(decoded(get(id, 'kept_steps'))) do add(step) end
  for _, step in pairs(decoded(get(id, 'starters'))) do add(step) end
  table.sort(steps)
  return #steps > 0 and cjson.encode(steps) or '[]'
end

-- The queues by priority; a record that names any other list waits in that of `normal`.
local QUEUES = { ['jobs'] = true, ['jobs\6\0223'] = true, ['jobs\6\0226'] = true, ['jobs\6\0229'] = true }

-- The job's queue and its message.
local function queue_of(id)
  local queue, message = get_all(id, 'queue', 'message')
  return QUEUES[queue] and queue or 'jobs\6\0226', message
end

-- Adds a step to those whose checkpoints are pinned, or takes it out; returns all of them, as a JSON list.
local function pin(id, step, on)
  local steps = {}
  for _, one in ipairs(decoded(get(id, 'kept_steps'))) do
    if type(one) == 'number' and one ~= step then steps[#steps + 1] = one end
  end
  if on then steps[#steps + 1] = step end
  table.sort(steps)
  local text = #steps > 0 and cjson.encode(steps) or '[]'
  set(id, { kept_steps = text })
  return text
end

-- == the index of waiting jobs =====================================================================
--
-- A box finds the jobs that fit it without reading the queue: jobs with the same needs are one class, and each class is
-- in the queue's order. Every act that queues a job, or takes it out, changes record, message and index in one script.

local SPAN = 1073741824
-- Distinct needs of one number of GPUs; further ones join the class below, and boxes judge them by their records.
local MOST_CLASSES = 256
-- A place is a whole number within 2^48 of 0, so that priority and place are exact in one double.
local PRIORITIES, PRIORITY_SPAN = { urgent = 0, high = 1, normal = 2, low = 3 }, 2 ^ 50
-- A waiting job comes one priority earlier after so many ms, again and again: queue/schedule_view.py has the same.
local AGE_MS = 24 * 3600 * 1000
local LISTS = { 'jobs', 'jobs\6\0223', 'jobs\6\0226', 'jobs\6\0229' }
-- Boxes woken for a new job; each further try wakes twice as many, until it wakes as many as a script wakes at the most.
local WOKEN_FIRST, DOUBLED, WOKEN_MOST, CALL_AGAIN_MS = 2, 5, 64, 1000
-- Idle boxes looked through for a job whose file chooses boxes.
local LOOKED_THROUGH = 256
-- Messages looked at on each end of a list for jobs that an older version queued.
local STRAYS = 50

local function exact(number) return string.format('%.0f', number) end

local function order(field) return tonumber(redis.call('HGET', P .. 'order', field)) or 0 end

-- -- Celery's list ---------------------------------------------------------------------------------

local function job_of(message)
  -- A plain search for the place: a pattern would be tried at each of a thousand bytes.
  local at = message:find('"delivery_tag"', 1, true)
  return at and message:match('^"delivery_tag": ?"([^"\\]+)"', at)
end

local function push(id, right)
  local spot
  local queue, message = queue_of(id)
  if right then
    redis.call('RPUSH', P .. queue, message)
    spot = redis.call('HINCRBY', P .. 'order', queue, -1)
  else
    spot = order(queue) + redis.call('LPUSH', P .. queue, message) - 1
  end
  redis.call('HSET', P .. 'spots', id, exact(spot))
end

-- Removes the message at this distance from the right end. In the middle the newest message takes its place: the index
-- has the order, and nothing must be moved up.
local function pull_at(queue, at)
  if at == 0 then
    redis.call('RPOP', P .. queue)
    redis.call('HINCRBY', P .. 'order', queue, 1)
    return
  end
  local newest = redis.call('LPOP', P .. queue)
  if redis.call('LLEN', P .. queue) == at then return end
  redis.call('LSET', P .. queue, -1 - at, newest)
  local id = job_of(newest)
  if id and redis.call('HEXISTS', P .. 'spots', id) == 1 then
    redis.call('HSET', P .. 'spots', id, exact(order(queue) + at))
  end
end

-- How far the job's message lies from the right end of its list, if it is where `spots` says.
local function spot_of(id, queue, message)
  local spot = tonumber(redis.call('HGET', P .. 'spots', id))
  local at = spot and spot - order(queue)
  return at and at >= 0 and redis.call('LINDEX', P .. queue, exact(-1 - at)) == message and at or nil
end

local function pull(id)
  local queue, message = queue_of(id)
  local at = spot_of(id, queue, message)
  if not at then
    -- A client of an older version moved it.
    local from_left = redis.call('LPOS', P .. queue, message, 'RANK', -1)
    at = from_left and redis.call('LLEN', P .. queue) - 1 - from_left
  end
  if at then pull_at(queue, at) end
  redis.call('HDEL', P .. 'spots', id)
end

-- -- the index --------------------------------------------------------------------------------------

local function bounded(value, most)
  local number = type(value) == 'number' and value or 0
  return number > 0 and math.min(math.floor(number), most) or 0
end

-- Whether a text matches a pattern of `*` and `?`; in steps bounded by the product of both lengths.
local function matches(pattern, text)
  local p, t, star, from = 1, 1, nil, 1
  while t <= #text do
    local one = pattern:sub(p, p)
    if one == '*' then
      star, from, p = p, t, p + 1
    elseif one == '?' or one == text:sub(t, t) then
      p, t = p + 1, t + 1
    elseif star then
      p, from = star + 1, from + 1
      t = from
    else
      return false
    end
  end
  return pattern:sub(p):match('^%**$') ~= nil
end

local function any_of(list, is_one)
  for _, one in ipairs(type(list) == 'table' and list or {}) do
    if type(one) == 'string' and is_one(one) then return true end
  end
  return false
end

-- Whether a job of this choice may run on a box with so many GPUs of it: jobs/box_choice.py has the same.
local function allows(choice, gpus, box)
  local function is_name(pattern) return matches(pattern, box) end
  if any_of(choice.not_box, is_name) then return false end
  if type(choice.box) == 'table' and #choice.box > 0 and not any_of(choice.box, is_name) then return false end
  if type(choice.gpu) ~= 'table' or #choice.gpu == 0 then return true end
  local able = 0
  for _, gpu in ipairs(decoded(hash_field('box:' .. box, 'gpus'))) do
    local name = type(gpu) == 'table' and type(gpu.name) == 'string' and gpu.name:lower() or ''
    if any_of(choice.gpu, function(part) return name:find(part:lower(), 1, true) end) then able = able + 1 end
  end
  return able >= math.max(1, gpus)
end

-- Returns the kind of a box's cards, as `NVIDIA GeForce RTX 4090 24 GiB`, and how many it has; '' for a box without.
local function card_of(box)
  local gpus = decoded(hash_field('box:' .. box, 'gpus'))
  local first = gpus[1]
  if type(first) ~= 'table' or type(first.name) ~= 'string' then return '', 0 end
  return string.format('%s %d GiB', first.name:sub(1, 80), math.floor(whole(first.total_mib, 0) / 1024 + 0.5)), #gpus
end

-- Whether the jobs of a class may run on a box by their files' choice.
local function allowed(class, box)
  if not class:find(':', class:find(':', 1, true) + 1, true) then return true end
  return allows(decoded(hash_field('choices', class)), tonumber(class:match('^%d+')), box)
end

-- The class that the job's needs put it into, and that class's score in `classes`.
local function class_for(id)
  local stated, preflight, choice = get_all(id, 'needs', 'preflight', 'choice')
  local needs = decoded(stated)
  local gpus, vram = bounded(needs.gpus, 4096), bounded(needs.vram_mib, SPAN - 1)
  -- What boxes reckoned by the dataset's own images: the least, and each box judges by its own.
  for _, found in pairs(preflight == '' and {} or decoded(preflight)) do
    local reckoned = type(found) == 'table' and bounded(found.vram_mib, SPAN - 1) or 0
    if reckoned > 0 and vram > 0 then vram = math.min(vram, reckoned) end
  end
  local class, lowest = string.format('%d:%d', gpus, vram), gpus * SPAN
  if next(decoded(choice)) then class = class .. ':' .. redis.sha1hex(choice):sub(1, 16) end
  if not redis.call('ZSCORE', P .. 'classes', class)
    and redis.call('ZCOUNT', P .. 'classes', lowest, lowest + SPAN - 1) >= MOST_CLASSES then
    class = string.format('%d:0', gpus)
    for _, below in ipairs(redis.call('ZREVRANGEBYSCORE', P .. 'classes', lowest + vram, lowest)) do
      -- One whose jobs choose boxes is none for others.
      if below:match('^%d+:%d+$') then
        class = below
        break
      end
    end
    vram = tonumber(class:match(':(%d+)'))
  end
  return class, lowest + vram
end

local function messages()
  local count = 0
  for _, queue in ipairs(LISTS) do count = count + redis.call('LLEN', P .. queue) end
  return count
end

local function last_place()
  -- Jobs of a version without an index wait before the first job that has one.
  redis.call('HSETNX', P .. 'order', 'last', messages())
  return redis.call('HINCRBY', P .. 'order', 'last', 1)
end

-- Fair share between users: with as many users waiting, each gets as many of the next places a card. A user's jobs have
-- places one behind another; the first of one who had none waits behind what has been served so far (fair queueing).
-- FAIR_STEP: places for one card; those of one card are told apart by the order in which they were given.
local FAIR_STEP = 65536

local function is_fair() return hash_field('order', 'fair') == '1' end

local function user_of(id) return get(id, 'submitter'):sub(1, 200) end

local function cards_of(id) return math.max(1, math.min(whole(decoded(get(id, 'needs')).gpus, 0), 4096)) end

-- Begins or ends fair share; jobs that wait already keep their places.
local function share_fairly(on)
  if on == is_fair() then return end
  redis.call('DEL', P .. 'shares')
  redis.call('HSET', P .. 'order', 'fair', on and 1 or 0, 'served', exact(math.max(order('last'), messages()) + FAIR_STEP))
end

local function fair_place(id)
  local user = user_of(id)
  local from = math.max(order('served'), tonumber(redis.call('ZSCORE', P .. 'shares', user)) or 0)
  redis.call('ZADD', P .. 'shares', exact(from + cards_of(id) * FAIR_STEP), user)
  local place = from - from % FAIR_STEP + redis.call('HINCRBY', P .. 'order', 'given', 1) % FAIR_STEP
  if place > order('last') then redis.call('HSET', P .. 'order', 'last', exact(place)) end
  return place
end

-- A job was claimed for the first time: what was served grows by its cards, divided among the users that wait.
local function count_share(id)
  if not is_fair() or whole(get(id, 'epoch'), 0) > 0 then return end
  local users = math.max(1, redis.call('ZCOUNT', P .. 'shares', '(' .. exact(order('served')), '+inf'))
  local served = redis.call('HINCRBY', P .. 'order', 'served', exact(math.ceil(cards_of(id) * FAIR_STEP / users)))
  redis.call('ZREMRANGEBYSCORE', P .. 'shares', '-inf', exact(served))
end

-- A waiting job that no box ever had leaves its place: the user's next one may have it.
local function give_share_back(id)
  local user = user_of(id)
  if is_fair() and whole(get(id, 'epoch'), 0) == 0 and redis.call('ZSCORE', P .. 'shares', user) then
    redis.call('ZINCRBY', P .. 'shares', exact(-cards_of(id) * FAIR_STEP), user)
  end
end

local function priority_of(id) return PRIORITIES[get(id, 'priority')] or PRIORITIES.normal end

-- The job has to be judged anew by boxes that have judged it.
local function changed(id) redis.call('ZADD', P .. 'news', redis.call('HINCRBY', P .. 'order', 'seq', 1), id) end

local function index(id, place, priority)
  local class, score = class_for(id)
  local at = exact((priority or priority_of(id)) * PRIORITY_SPAN + place)
  redis.call('HSET', P .. 'waiting', id, class)
  redis.call('ZADD', P .. 'class:' .. class, at, id)
  redis.call('ZADD', P .. 'classes', score, class)
  if class:find(':.*:') then redis.call('HSET', P .. 'choices', class, get(id, 'choice')) end
  local preflight, box = get_all(id, 'preflight', 'box')
  if preflight == '' and box == '' then redis.call('ZADD', P .. 'unchecked', at, id) end
  if box ~= '' then redis.call('SADD', P .. 'former:' .. box, id) end
end

local function unindex(id)
  local class = redis.call('HGET', P .. 'waiting', id)
  if not class then return end
  redis.call('ZREM', P .. 'class:' .. class, id)
  if redis.call('EXISTS', P .. 'class:' .. class) == 0 then
    redis.call('ZREM', P .. 'classes', class)
    redis.call('HDEL', P .. 'choices', class)
  end
  redis.call('HDEL', P .. 'waiting', id)
  redis.call('ZREM', P .. 'news', id)
  redis.call('ZREM', P .. 'unchecked', id)
  local box = get(id, 'box')
  if box ~= '' then redis.call('SREM', P .. 'former:' .. box, id) end
end

-- The priority that a score in an index stands for, and the place.
local function split(score)
  local priority = math.floor(tonumber(score) / PRIORITY_SPAN + 0.5)
  return priority, tonumber(score) - priority * PRIORITY_SPAN
end

-- A job that has waited long comes one priority before its own for each day, never as urgent (queue/schedule_view.py).
local function lift(id, at)
  local class = redis.call('HGET', P .. 'waiting', id)
  local score = class and redis.call('ZSCORE', P .. 'class:' .. class, id)
  if not score then return end
  local stated, waited = priority_of(id), at - whole(get(id, 'queued_ms'), at)
  local wanted = math.min(stated, math.max(PRIORITIES.high, stated - math.floor(waited / AGE_MS)))
  local priority, place = split(score)
  if wanted >= priority then return end
  redis.call('ZADD', P .. 'class:' .. class, exact(wanted * PRIORITY_SPAN + place), id)
  if redis.call('ZSCORE', P .. 'unchecked', id) then
    redis.call('ZADD', P .. 'unchecked', exact(wanted * PRIORITY_SPAN + place), id)
  end
  changed(id)
end

-- Moves a waiting job to the class of its needs as they are known now; it keeps its place.
local function index_anew(id)
  local class = redis.call('HGET', P .. 'waiting', id)
  local at = class and redis.call('ZSCORE', P .. 'class:' .. class, id)
  if not at or class_for(id) == class then return end
  local unchecked = redis.call('ZSCORE', P .. 'unchecked', id)
  unindex(id)
  local priority, place = split(at)
  index(id, place, priority)
  if not unchecked then redis.call('ZREM', P .. 'unchecked', id) end
end

-- -- idle boxes -------------------------------------------------------------------------------------

local function busy(box)
  local free = redis.call('HGET', P .. 'idle', box)
  if not free then return end
  redis.call('HDEL', P .. 'idle', box)
  for k = 0, #decoded(free) do redis.call('ZREM', P .. 'idle:' .. k, box) end
end

-- text: MiB of its GPUs that no job was promised, the most first, as a JSON list; free: the same read.
local function idle(box, text, free)
  -- Nothing is written, and nothing need reach the server's disk, where nothing changed.
  if redis.call('HGET', P .. 'idle', box) == text then return end
  busy(box)
  redis.call('HSET', P .. 'idle', box, text)
  redis.call('ZADD', P .. 'idle:0', 0, box)
  for k, mib in ipairs(free) do redis.call('ZADD', P .. 'idle:' .. k, mib, box) end
end

-- Wakes a few idle boxes that the job fits, the tightest first. Whoever was woken stands no longer among the idle until it
-- has looked; so a box that is gone is woken once. Returns how many were woken.
local function call_boxes(id, tries, at)
  local class = redis.call('HGET', P .. 'waiting', id) or ''
  local gpus, vram = class:match('(%d+):(%d+)')
  if not gpus then return 0 end
  local doubled = math.min(tries, DOUBLED)
  local count = WOKEN_FIRST * 2 ^ doubled
  local before = count - WOKEN_FIRST + (tries - doubled) * count
  local boxes = {}
  if class:find(':.*:') then
    for _, box in ipairs(redis.call('ZRANGEBYSCORE', P .. 'idle:' .. gpus, vram, '+inf', 'LIMIT', 0, LOOKED_THROUGH)) do
      if #boxes < count and allowed(class, box) then boxes[#boxes + 1] = box end
    end
  else
    boxes = redis.call('ZRANGEBYSCORE', P .. 'idle:' .. gpus, vram, '+inf', 'LIMIT', before, count)
  end
  for _, box in ipairs(boxes) do
    busy(box)
    redis.call('PUBLISH', P .. 'wake:' .. box, id)
  end
  if #boxes > 0 then redis.call('ZADD', P .. 'calls', at + CALL_AGAIN_MS, id .. ':' .. tries + 1) end
  return #boxes
end

-- Tells boxes of a job that now waits: a few that are woken, or else all, each when it next looks. In a burst of jobs
-- each box would otherwise pass over all that others were woken for.
local function tell_boxes(id)
  if call_boxes(id, 0, now()) == 0 then changed(id) end
end

-- Wakes the next boxes for jobs that the boxes woken before did not claim.
local function call_again(at, limit)
  local woken = 0
  for _, call in ipairs(redis.call('ZRANGEBYSCORE', P .. 'calls', '-inf', at, 'LIMIT', 0, limit)) do
    if woken >= WOKEN_MOST then break end
    redis.call('ZREM', P .. 'calls', call)
    local id, tries = call:match('^(.*):(%d+)$')
    -- Until now it was told to the boxes first called, and to no other.
    if tries == '1' and redis.call('HEXISTS', P .. 'waiting', id) == 1 then changed(id) end
    woken = woken + call_boxes(id, tonumber(tries), at)
  end
end

-- -- what boxes have ---------------------------------------------------------------------------------

-- GPUs of one box, and trainings that share one of them (queue/capacity.py), at the most.
local MOST_CARDS, MOST_ON_A_CARD = 64, 4

local function unplace(box)
  local gpus = tonumber(redis.call('HGET', P .. 'placed', box))
  if not gpus then return end
  redis.call('HDEL', P .. 'placed', box)
  for k = 0, gpus do
    for _, key in ipairs({ 'cards:', 'room:', 'shared:' }) do redis.call('ZREM', P .. key .. k, box) end
  end
end

-- The MiB of a box's GPUs, of those without a job, and of those that a job which shares its cards may use; most first.
local function sizes_of(gpus, free, holders)
  local all, empty, open = {}, {}, {}
  for k, gpu in ipairs(gpus) do
    all[k] = bounded(type(gpu) == 'table' and gpu.total_mib, SPAN)
    local left, held = bounded(free[k], all[k]), type(holders[k]) == 'table' and holders[k] or {}
    local jobs = type(held.jobs) == 'table' and #held.jobs or 0
    empty[k] = jobs == 0 and left or -1
    open[k] = (jobs == 0 or held.shared == true and jobs < MOST_ON_A_CARD) and left or -1
  end
  for _, sizes in ipairs({ all, empty, open }) do table.sort(sizes, function(a, b) return a > b end) end
  return all, empty, open
end

-- Indexes a box by what it announced, so that a submit says where its job fits without reading all boxes.
local function place_box(box, at)
  unplace(box)
  local names = { 'status', 'gpus', 'free_mib', 'holders', 'blocked', 'drain', 'running', 'slots', 'used_slots' }
  local told = {}
  for k, text in ipairs(redis.call('HMGET', P .. 'box:' .. box, unpack(names))) do told[names[k]] = text or '' end
  local gpus, free = decoded(told.gpus), decoded(told.free_mib)
  -- A box of an older version announces no free_mib.
  if told.status == 'stopped' or told.free_mib == '' or #gpus ~= #free or #gpus > MOST_CARDS then return end
  local used = told.used_slots == '' and told.running or told.used_slots
  local takes_jobs = told.status == 'ready' and told.blocked == '' and told.drain == '' and whole(used, 0) < whole(told.slots, 1)
  local all, empty, open = sizes_of(gpus, free, decoded(told.holders))
  redis.call('HSET', P .. 'placed', box, #gpus)
  redis.call('ZADD', P .. 'cards:0', at, box)
  if takes_jobs then redis.call('ZADD', P .. 'room:0', 0, box) end
  for k = 1, #gpus do
    redis.call('ZADD', P .. 'cards:' .. k, all[k], box)
    if takes_jobs then
      redis.call('ZADD', P .. 'room:' .. k, empty[k], box)
      redis.call('ZADD', P .. 'shared:' .. k, open[k], box)
    end
  end
end

-- -- into the queue and out of it ------------------------------------------------------------------

local function enqueue_last(id)
  local place = is_fair() and fair_place(id) or last_place()
  push(id, false)
  index(id, place)
  tell_boxes(id)
end

-- An interrupted job is next again.
local function enqueue_first(id)
  push(id, true)
  index(id, redis.call('HINCRBY', P .. 'order', 'first', -1))
  tell_boxes(id)
end

local function unqueue(id)
  redis.call('HDEL', P .. 'reserved', id)
  pull(id)
  unindex(id)
end

-- -- jobs that a version without an index queued -----------------------------------------------------

local function lacks_index(id, message)
  return id and redis.call('HEXISTS', P .. 'waiting', id) == 0 and get(id, 'state') == 'queued'
    and get(id, 'message') == message
end

-- Indexes up to `limit` jobs of a queue that is older than the index, next ones first; true once all are in it.
local function adopt(limit)
  local done = server('index')
  if done == 'whole' then return true end
  if done == '' and messages() == redis.call('HLEN', P .. 'waiting') then
    redis.call('HSET', P .. 'server', 'index', 'whole')
    return true
  end
  local list, from = done:match('(%d):(%d+)')
  list, from = tonumber(list) or 1, tonumber(from) or 0
  redis.call('HSETNX', P .. 'order', 'last', messages())
  while list <= #LISTS and limit > 0 do
    local queue = LISTS[list]
    local found = redis.call('LRANGE', P .. queue, -from - limit, -from - 1)
    for i = #found, 1, -1 do
      local id = job_of(found[i])
      if lacks_index(id, found[i]) then
        redis.call('HSET', P .. 'spots', id, exact(order(queue) + from + #found - i))
        index(id, redis.call('HINCRBY', P .. 'order', 'moved', 1))
        changed(id)
      end
    end
    if #found < limit then list, from = list + 1, 0 else from = from + #found end
    limit = limit - #found
  end
  redis.call('HSET', P .. 'server', 'index', list > #LISTS and 'whole' or list .. ':' .. from)
  return list > #LISTS
end

-- Indexes what clients of an older version put on either end of the lists. Kept for one release, with `adopt`.
local function adopt_strays()
  if messages() == redis.call('HLEN', P .. 'waiting') then return end
  if not redis.call('SET', P .. 'adopted', 1, 'NX', 'PX', 1000) then return end
  for _, queue in ipairs(LISTS) do
    local right = redis.call('LRANGE', P .. queue, -STRAYS, -1)
    for i = #right, 1, -1 do
      -- Where messages lie that were known: what older clients put before them, or took, shows.
      local id = job_of(right[i])
      local spot = id and tonumber(redis.call('HGET', P .. 'spots', id))
      if spot then
        redis.call('HSET', P .. 'order', queue, exact(spot - (#right - i)))
        break
      end
    end
    local count, left = redis.call('LLEN', P .. queue), redis.call('LRANGE', P .. queue, 0, STRAYS - 1)
    local ends = {}
    for i = 1, #right do ends[#ends + 1] = { right[i], #right - i } end
    for i = #left, 1, -1 do ends[#ends + 1] = { left[i], count - i } end
    for _, one in ipairs(ends) do
      local id = job_of(one[1])
      if lacks_index(id, one[1]) then
        redis.call('HSET', P .. 'spots', id, exact(order(queue) + one[2]))
        -- One that a box had before is next again.
        index(id, get(id, 'box') ~= '' and redis.call('HINCRBY', P .. 'order', 'first', -1) or last_place())
        tell_boxes(id)
      end
    end
  end
end

-- -- finding jobs -----------------------------------------------------------------------------------

local function number_of(cursor)
  if cursor == '+inf' then return math.huge end
  return tonumber((cursor:gsub('%(', ''))) or -math.huge
end

-- Classes whose jobs fit a box and its GPUs with so much free, the most first; jobs without a GPU fit always.
local function fitting_classes(free, box)
  local found = {}
  for k = 0, #free do
    local most = k == 0 and SPAN - 1 or math.min(free[k], SPAN - 1)
    for _, class in ipairs(redis.call('ZRANGEBYSCORE', P .. 'classes', k * SPAN, k * SPAN + most)) do
      if allowed(class, box) then found[#found + 1] = class end
    end
  end
  return found
end

local function fits(class, free)
  local gpus, vram = class:match('(%d+):(%d+)')
  gpus = tonumber(gpus)
  return gpus == 0 or (free[gpus] ~= nil and free[gpus] >= tonumber(vram))
end

-- The first `limit` jobs of these classes behind the place `after`: {id, place as text} each, in the queue's order.
local function heads(classes, after, limit)
  local found = {}
  for _, class in ipairs(classes) do
    local ids = redis.call('ZRANGEBYSCORE', P .. 'class:' .. class, after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #ids, 2 do found[#found + 1] = { ids[i], ids[i + 1], tonumber(ids[i + 1]) } end
  end
  table.sort(found, function(a, b) return a[3] < b[3] end)
  for i = #found, limit + 1, -1 do found[i] = nil end
  return found
end

-- == owned jobs =====================================================================================

-- Writes what is promised of a resource to a job, or with nil takes it back; counts the change.
local function set_promise(resource, id, mib)
  local key = P .. 'promises:' .. resource
  if mib then redis.pcall('HSET', key, id, mib) else redis.pcall('HDEL', key, id) end
  redis.pcall('HINCRBY', key, '#', 1)
end

-- promises: [[resource, changes seen when it was judged, MiB], …]
local function promise(id, promises)
  for _, one in ipairs(promises) do
    if type(one) == 'table' and type(one[1]) == 'string' then set_promise(one[1], id, whole(one[3], 0)) end
  end
end

-- Claims of all jobs, and of one, whose cost is kept.
local MOST_HELD, MOST_HOLDS = 200000, 200

-- What the present claim of an owned job took so far, as jobs/cost.py reads it. after: the state that follows.
local function hold_of(id, after, at)
  local box, gpus, claimed, ran, saved = get_all(id, 'box', 'gpus', 'claimed_ms', 'ran_ms', 'checkpoint_ms')
  local from, price = whole(claimed, at), hash_field('prices', box)
  return cjson.encode({
    job = id, name = get(id, 'name'), user = get(id, 'submitter'), box = box, after = after,
    cards = #decoded(gpus), box_cards = #decoded(hash_field('box:' .. box, 'gpus')),
    from_ms = from, ran_ms = whole(ran, 0), to_ms = at, before = redis.call('LLEN', P .. 'holds:' .. id),
    saved_ms = whole(saved, 0) >= from and whole(saved, 0) or 0, price = price ~= '' and decoded(price) or nil,
  })
end

-- What a claim cost so far, as jobs/cost.py has it: the amount and its currency; nil where its box has no price.
local function money_of(hold)
  local price = type(hold.price) == 'table' and hold.price or {}
  if type(price.per_hour) ~= 'number' or type(price.currency) ~= 'string' then return end
  local share = hold.cards > 0 and hold.box_cards > 0 and math.min(1, hold.cards / hold.box_cards) or 1
  return price.per_hour * share * math.max(0, hold.to_ms - hold.from_ms) / 3600000, price.currency
end

-- What a job cost so far in a currency.
local function spent_of(id, currency, at)
  local before = decoded(get(id, 'spent'))[currency]
  local spent = type(before) == 'number' and before or 0
  if OWNED[get(id, 'state')] and get(id, 'claimed_ms') ~= '' then
    local now_spent, of = money_of(cjson.decode(hold_of(id, '', at)))
    if of == currency then spent = spent + now_spent end
  end
  return spent
end

-- Holds a job that cost as much as its file allows: its owner saves it first. After a release it may cost as much again.
local function keep_to_budget(id, at)
  local budget = decoded(get(id, 'budget'))
  if type(budget.amount) ~= 'number' or get(id, 'held') ~= '' or get(id, 'wish') ~= '' then return end
  local spent = spent_of(id, tostring(budget.currency), at)
  if spent - (tonumber(get(id, 'budget_from')) or 0) < budget.amount then return end
  local text = string.format('because it cost %.2f %s: its budget is reached, and a release allows as much again', spent, budget.currency)
  set(id, { held = text, wish = 'stop', over_budget = 1 })
  note(id, at, '', 'held ' .. text)
  announce(id)
end

-- Adds what a claim cost since this was called last to the budget of its user; returns whether there is one,
-- and whether it was reached by that.
local function charge(id, at)
  local user, claimed, charged = get_all(id, 'submitter', 'claimed_ms', 'charged_ms')
  local text = hash_field('budgets', user)
  if text == '' or claimed == '' then return false end
  local budget, hold = decoded(text), cjson.decode(hold_of(id, '', at))
  if type(budget.amount) ~= 'number' then return false end
  hold.from_ms = math.max(whole(claimed, at), whole(charged, 0), whole(budget.since_ms, 0))
  local money, currency = money_of(hold)
  set(id, { charged_ms = at })
  if money and currency == budget.currency then
    local before = type(budget.spent) == 'number' and budget.spent or 0
    budget.spent = before + money
    redis.call('HSET', P .. 'budgets', user, cjson.encode(budget))
    return true, before < budget.amount and budget.spent >= budget.amount
  end
  return true, false
end

-- Returns why a job is held whose user's budget is reached; nil where it is not, or there is none.
local function over_budget(id)
  local budget = decoded(hash_field('budgets', get(id, 'submitter')))
  if type(budget.amount) ~= 'number' or type(budget.spent) ~= 'number' or budget.spent < budget.amount then return end
  return string.format('because the jobs of %s cost %.2f %s of a budget of %.2f: it goes on once that is larger and it is released',
                       get(id, 'submitter'), budget.spent, tostring(budget.currency), budget.amount)
end

-- Holds an owned job whose user's budget is reached: its owner saves it first. Returns whether it was reached just now.
local function keep_to_users_budget(id, at)
  local exists, reached = charge(id, at)
  local text = exists and get(id, 'held') == '' and get(id, 'wish') == '' and over_budget(id)
  if not text then return reached end
  set(id, { held = text, wish = 'stop' })
  note(id, at, '', 'held ' .. text)
  announce(id)
  return reached
end

-- Keeps what a claim took that ends now. A job of an older version has no time of its claim, and nothing is kept of it.
local function account(id, after, at)
  if get(id, 'claimed_ms') == '' then return end
  charge(id, at)
  local entry = hold_of(id, after, at)
  local money, currency = money_of(cjson.decode(entry))
  if money then
    local spent = decoded(get(id, 'spent'))
    spent[currency] = (type(spent[currency]) == 'number' and spent[currency] or 0) + money
    set(id, { spent = cjson.encode(spent) })
  end
  redis.call('ZADD', P .. 'held', at, entry)
  redis.call('ZREMRANGEBYRANK', P .. 'held', 0, -MOST_HELD - 1)
  if redis.call('RPUSH', P .. 'holds:' .. id, entry) > MOST_HOLDS then redis.call('LPOP', P .. 'holds:' .. id) end
  set(id, { claimed_ms = '', ran_ms = '', charged_ms = '' })
end

-- Gives back all that an owner held: promises, lease, place on its box.
local function release(id)
  local promises, box, message = get_all(id, 'promises', 'box', 'message')
  for _, one in ipairs(decoded(promises)) do
    if type(one) == 'table' and type(one[1]) == 'string' then set_promise(one[1], id, nil) end
  end
  redis.call('ZREM', P .. 'leases', id)
  redis.call('SREM', P .. 'owned:' .. box, id)
  redis.call('LREM', P .. 'box.' .. box, 0, message)
  set(id, { promises = '', gpus = '[]', vram_now_mib = 0, disk_now_mib = 0 })
  wake(box, 'room')
end

-- Why no box, or this one, may claim for now: `regrouping` or `drained`; nil if it may.
local function no_claims(box, at)
  if whole(server('until'), 0) > at then return 'regrouping' end
  if hash_field('box:' .. box, 'drain') ~= '' then return 'drained' end
end

-- Whether something was promised since a box judged a job: promises are [[resource, changes seen, MiB], …].
local function stale(promises)
  for _, one in ipairs(promises) do
    local changes = redis.call('HGET', P .. 'promises:' .. one[1], '#') or '0'
    if changes ~= tostring(one[2]) then return true end
  end
  return false
end

-- Makes a box the owner of a queued job; returns its new epoch. claimant: box, boot, lease in ms. offer: promises, GPUs
-- as JSON, text, least_epoch (above any that the box's ledger has, which an older copy of these data may not know).
local function take(id, claimant, offer, at)
  promise(id, offer.promises)
  count_share(id)
  unqueue(id)
  local epoch = math.max(whole(get(id, 'epoch'), 0) + 1, offer.least_epoch)
  local promised = #offer.promises > 0 and cjson.encode(offer.promises) or '[]'
  set(id, { state = 'claimed', epoch = epoch, box = claimant.box, boot = claimant.boot, promises = promised,
            claimed_ms = at, ran_ms = '', gpus = offer.gpus, updated_ms = at, reason = '', detail = '', phase = '' })
  redis.call('ZADD', P .. 'leases', at + claimant.lease, id)
  redis.call('SADD', P .. 'owned:' .. claimant.box, id)
  redis.call('LPUSH', P .. 'box.' .. claimant.box, get(id, 'message'))
  note(id, at, '', offer.text)
  announce(id)
  return epoch
end

-- In dependencies.lua: why a job may not be queued yet, what follows from the end of one, and its conditions taken out.
local kept_back, settle_dependants, forget_conditions
-- In sweeps.lua: why its sweep keeps a job out of the queue, and what follows for the sweep from a trial's new state.
local sweep_keeps, trial_moved

-- Ends an owned or waiting job, or puts it back in the queue; the caller has checked that it may.
local function finish_or_requeue(id, to, reason, text, at)
  local from = get(id, 'state')
  if to == 'queued' and get(id, 'wish') == 'cancel' then
    to, reason, text = 'cancelled', 'cancelled_by_user', 'cancelled while interrupted: ' .. text
  end
  if to == 'queued' and get(id, 'held') ~= '' then
    to, reason, text = 'waiting', 'held', 'held ' .. get(id, 'held') .. ': ' .. text
  end
  if to == 'queued' then
    local because, told = kept_back(id, at)
    if because then to, reason, text = 'waiting', because, told end
  end
  if get(id, 'wish') == 'stop' then set(id, { wish = '' }) end
  if from == 'queued' then
    if ENDED[to] then give_share_back(id) end
    unqueue(id)
  end
  if to == 'waiting' and reason ~= 'held' then
    redis.call('ZADD', P .. 'conditional', at, id)
  else
    redis.call('ZREM', P .. 'conditional', id)
  end
  if OWNED[from] and not OWNED[to] then
    account(id, to, at)
    release(id)
  end
  if to == 'running' and from ~= 'running' then set(id, { ran_ms = at }) end
  set(id, { state = to, updated_ms = at, reason = reason })
  if reason ~= '' then set(id, { detail = text }) end
  if not OWNED[to] then set(id, { phase = '' }) end
  if to == 'queued' then
    -- One that has never waited in the queue comes behind those that have.
    local first = get(id, 'queued_ms') ~= '' or whole(get(id, 'epoch'), 0) > 0
    set(id, { queued_ms = at })
    if first then enqueue_first(id) else enqueue_last(id) end
  elseif ENDED[to] then
    set(id, { ended_ms = at, wish = '' })
    keep_start(id, false)
    redis.call('ZREM', P .. 'live', id)
    redis.call('ZADD', P .. 'ended', at, id)
  end
  note(id, at, reason, text)
  announce(id)
  if get(id, 'sweep') ~= '' then trial_moved(id, at) end
  if ENDED[to] then
    forget_conditions(id)
    redis.call('ZREM', P .. 'sweeps', id)
    settle_dependants(id, at)
  end
  return to
end
