-- prune(ms an ended job is kept or -1, ended jobs kept or -1, rank to begin at, jobs looked at)
-- -> {rank to go on at or -1, ids removed}
-- Removes the records of ended jobs, oldest first: those that ended longer ago, and those beyond the count. A job stays
-- while its checkpoint is pinned or a job starts from it, while a task of it is pending or a job waits for it, or while
-- the job that continues it is known.
local keep_ms, keep_jobs, rank, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local total = redis.call('ZCARD', P .. 'ended')
local due = 0
if keep_jobs >= 0 then due = math.max(due, total - keep_jobs) end
if keep_ms >= 0 then due = math.max(due, redis.call('ZCOUNT', P .. 'ended', '-inf', '(' .. (now() - keep_ms))) end

-- An unreadable field keeps its job: nothing is lost because of a damaged record.
local function pending(id)
  for _, field in ipairs({ 'push', 'copy', 'wandb_sync', 'swanlab_sync' }) do
    local text = get(id, field)
    if text:find('"pending"', 1, true) or text:find('"failed"', 1, true) then return true end
  end
  return false
end

local function referred(id)
  if redis.call('EXISTS', P .. 'dependants:' .. id) == 1 then return true end
  -- A sweep goes once its trials have gone.
  for _, trial in ipairs(redis.call('HVALS', P .. 'sweep:' .. id)) do
    if redis.call('EXISTS', P .. 'job:' .. trial) == 1 then return true end
  end
  local continued = get(id, 'continued')
  return continued ~= '' and redis.call('EXISTS', P .. 'job:' .. continued) == 1
end

local removed, last = {}, math.min(rank + limit, due) - 1
if last >= rank then
  for _, id in ipairs(redis.call('ZRANGE', P .. 'ended', rank, last)) do
    if protected_steps(id) ~= '[]' or pending(id) or referred(id) then
      rank = rank + 1
    else
      redis.call('ZREM', P .. 'lookup', 'i:' .. id, 'n:' .. get(id, 'name') .. '\0' .. id)
      redis.call('ZREM', P .. 'ended', id)
      for _, kind in ipairs({ 'job:', 'history:', 'tail:', 'curve:', 'holds:', 'sweep:' }) do redis.call('DEL', P .. kind .. id) end
      redis.call('DEL', P .. 'tail:' .. id .. ':ranks')
      removed[#removed + 1] = id
      redis.call('ZADD', P .. 'removed', now(), id)
      announce(id)
    end
  end
  due = due - #removed
  redis.call('ZREMRANGEBYRANK', P .. 'removed', 0, -100001)
end
return { rank < due and rank or -1, removed }
