-- next_candidates(box, free MiB of its GPUs as JSON, the same when it last looked, place, change, limit, unchecked, called)
-- -> {ms, jobs waiting, place, change, 1 if there are more, {id, place, change, …}, {unchecked id, …}}
-- Which waiting jobs fit a box that it has not judged yet: those behind `place` in the queue, and those that changed since
-- `change`. free: most first, '' where the box takes no job now. place: '' for a first look, '+inf' where all were seen.
-- Where a GPU has more free than when the box last looked, and a job fits only now, the look begins anew; the box knows
-- what it has judged by id and change. Once there is nothing new, the box stands among the idle ones, to be woken.
-- called: the job that the box was woken for, or ''. For a second that job is told to nobody else, so that boxes which are
-- woken together do not all reach for the same; then it counts as changed and is told to all.
-- unchecked: jobs whose preflight the box would ask for now, fitting or not; each is handed out once.
local box, place, change, limit = ARGV[1], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local WALKED, CALLED, PASSED_OVER = 200, 5, 56
local at = now()
call_again(at, CALLED)
release_due(at, CALLED)
local whole = adopt(limit * 50)
if whole then adopt_strays() end

local function change_of(id) return tonumber(redis.call('ZSCORE', P .. 'news', id)) or 0 end

-- Appends a job that still waits; an older version claims without the index.
local found, told, count = {}, {}, 0
local function add(id, where)
  if told[id] then return end
  told[id] = true
  if get(id, 'state') ~= 'queued' then return unindex(id) end
  found[#found + 1], found[#found + 2], found[#found + 3] = id, where, exact(change_of(id))
  count = count + 1
end

local function others_are_called(id) return id ~= ARGV[8] and redis.call('ZSCORE', P .. 'calls', id .. ':1') end

local more = false
local function look(free, before)
  local classes = fitting_classes(free, box)
  for _, class in ipairs(classes) do
    if place ~= '' and not fits(class, before) then place = '' end
  end
  if place == '' then place, change = '-inf', order('seq') end
  local class = ARGV[8] and redis.call('HGET', P .. 'waiting', ARGV[8])
  if class and fits(class, free) and allowed(class, box) then add(ARGV[8], redis.call('ZSCORE', P .. 'class:' .. class, ARGV[8])) end
  local seen = number_of(place)
  local news = redis.call('ZRANGEBYSCORE', P .. 'news', '(' .. exact(change), '+inf', 'WITHSCORES', 'LIMIT', 0, WALKED)
  for i = 1, #news, 2 do
    if count >= limit then break end
    local id, class = news[i], redis.call('HGET', P .. 'waiting', news[i])
    change = tonumber(news[i + 1])
    local where = class and fits(class, free) and allowed(class, box) and redis.call('ZSCORE', P .. 'class:' .. class, id)
    if where and tonumber(where) <= seen and not others_are_called(id) then add(id, where) end
  end
  more = #news == 2 * WALKED or count >= limit
  if place == '+inf' then return end
  local next, fresh = heads(classes, seen == -math.huge and '-inf' or '(' .. place, limit + PASSED_OVER), 0
  for _, one in ipairs(next) do
    if fresh == limit then break end
    place = one[2]
    if not others_are_called(one[1]) then
      add(one[1], one[2])
      fresh = fresh + 1
    end
  end
  if #next < limit + PASSED_OVER and fresh < limit then place = '+inf' else more = true end
end

if ARGV[2] == '' then
  busy(box)
else
  local free = cjson.decode(ARGV[2])
  look(free, ARGV[3] == '' and {} or cjson.decode(ARGV[3]))
  more = more or not whole
  if count > 0 or more then busy(box) else idle(box, ARGV[2], free) end
end

local unchecked = {}
while #unchecked < tonumber(ARGV[7]) do
  local id = redis.call('ZPOPMIN', P .. 'unchecked')[1]
  if not id then break end
  if get(id, 'state') == 'queued' then unchecked[#unchecked + 1] = id end
end
return { at, redis.call('HLEN', P .. 'waiting'), place, exact(change), more and 1 or 0, found, unchecked }
