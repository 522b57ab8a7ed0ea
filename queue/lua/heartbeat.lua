-- heartbeat(name, box id, fields as JSON, lease, silent and claim holdoff in ms, heartbeats seen, drain seen, boot)
-- -> {0} another box has that name | {0, 'copy'} this boot is a copy of a box that runs
--    | {1, heartbeats, run id, drain, older, ms that claims still wait, displaced, a copy was found}
-- silent: after that many ms a namesake no longer counts. heartbeats seen: if these data count fewer, they are older,
-- and what the box saw of its user's wish (drain seen) counts.
-- A box that restarts has its id and another boot, and so has a copy of its disk. Whoever comes last takes the entry
-- (displaced: the boot before it was heard a moment ago). If that boot is heard again, both run: the entry is its own
-- again, and the later one is the copy, refused while the first may have trainings.
local name, box_id, fields, silent, holdoff = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local at = now_and_detect_restart()
local seen = tonumber(redis.call('ZSCORE', P .. 'boxes', name) or 0)
local holder = redis.call('HGET', P .. 'box:' .. name, 'box_id')
if holder and holder ~= box_id then
  if at - seen < silent and redis.call('HGET', P .. 'box:' .. name, 'status') ~= 'stopped' then return { 0 } end
  redis.call('HDEL', P .. 'box:' .. name, 'drain', 'drain_text', 'keep_on')
end
local boot, held, displaced, found = ARGV[9], hash_field('box:' .. name, 'boot'), 0, 0
if holder == box_id and boot ~= '' and held ~= '' and held ~= boot then
  local stopped = hash_field('box:' .. name, 'status') == 'stopped'
  if hash_field('box:' .. name, 'copy') == boot and at - seen < tonumber(ARGV[4]) and not stopped then
    return { 0, 'copy' }
  end
  if hash_field('box:' .. name, 'former_boot') == boot then
    redis.call('HSET', P .. 'box:' .. name, 'copy', held)
    redis.call('HDEL', P .. 'box:' .. name, 'former_boot')
    found = 1
  else
    redis.call('HSET', P .. 'box:' .. name, 'former_boot', held)
    if at - seen < silent and not stopped then displaced = 1 end
  end
end
redis.call('HSET', P .. 'box:' .. name, 'box_id', box_id)
if boot ~= '' then redis.call('HSET', P .. 'box:' .. name, 'boot', boot) end
for field, value in pairs(fields) do
  -- What is told of single jobs lies in a hash of its own, so that a reader asks for one job's.
  if type(value) == 'table' then
    redis.call('HDEL', P .. 'box:' .. name, field)
    redis.call('DEL', P .. field .. ':' .. name)
    for job, told in pairs(value) do redis.call('HSET', P .. field .. ':' .. name, job, told) end
  else
    redis.call('HSET', P .. 'box:' .. name, field, value)
  end
end
redis.call('ZADD', P .. 'boxes', at, name)
redis.call('HSET', P .. 'server', 'lease', ARGV[4], 'regroup', holdoff)

local older = tonumber(ARGV[7]) > whole(server('beats'), 0)
if older then
  redis.call('HSET', P .. 'box:' .. name, 'drain', ARGV[8])
  pause(at, at, holdoff)
  redis.call('HSET', P .. 'server', 'older', 1)
end
redis.call('SREM', P .. 'awaited', name)
local left = whole(server('until'), 0) - at
if left > 0 and server('older') == '' and redis.call('EXISTS', P .. 'awaited') == 0 then left = 0 end
if left <= 0 and whole(server('until'), 0) > 0 then
  redis.call('HSET', P .. 'server', 'until', 0)
  redis.call('HDEL', P .. 'server', 'older')
  redis.call('PUBLISH', P .. 'wake', '')
end
local function anything_of(names)
  for _, field in ipairs(names) do
    if fields[field] then return true end
  end
end
if anything_of({ 'status', 'gpus', 'free_mib', 'holders', 'blocked', 'running', 'slots', 'used_slots' })
  or redis.call('HEXISTS', P .. 'placed', name) == 0 then
  place_box(name, at)
else
  redis.call('ZADD', P .. 'cards:0', at, name)
end
local beats = redis.call('HINCRBY', P .. 'server', 'beats', 1)
redis.call('PUBLISH', P .. 'changes', 'box:' .. name)
return { 1, beats, server('run'), hash_field('box:' .. name, 'drain'), older and 1 or 0, math.max(0, left), displaced, found }
