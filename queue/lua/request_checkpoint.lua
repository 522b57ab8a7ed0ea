-- request_checkpoint(id, at least, text, 1 to pin the checkpoint) -> {state, request} | {state, 0} no trainer is at work
-- Asks the owner of a running job for a checkpoint. A request that no checkpoint has answered yet is joined; `at least`
-- is a request that was made before and may be lost to older data, 0 for a new one.
local id, least, text, pin = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local state = get(id, 'state')
local known, served = whole(get(id, 'save_wish'), 0), whole(get(id, 'save_served'), 0)
if least > 0 and served >= least then return { state, served } end
if state ~= 'running' then return { state, 0 } end
local at, wish = now(), known
if known <= served or known < least then
  wish = least > 0 and least or math.max(at, known + 1, served + 1)
  set(id, { save_wish = wish, save_at = get(id, 'step'), save_detail = '' })
  note(id, at, '', text)
end
if pin == '1' then set(id, { save_pin = wish }) end
announce(id)
redis.call('PUBLISH', P .. 'wish:' .. id, 'save')
return { state, wish }
