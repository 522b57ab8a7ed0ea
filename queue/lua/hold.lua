-- hold(id, text or '') -> the state it is in now
-- With a text: a queued job leaves the queue, the owner of any other saves and hands it back, and then it waits.
-- Without: a waiting job is next in the queue again, or waits for what else keeps it back; one that nobody holds waits
-- for no other job and no time any more. A job that is to be cancelled stays so.
local id, text = ARGV[1], ARGV[2]
local state, at = get(id, 'state'), now()
if text == '' and state == 'waiting' and get(id, 'held') == '' and get(id, 'wish') ~= 'cancel' then
  forget_conditions(id)
  set(id, { awaits = '', start_ms = '' })
  try_release(id, at, 'released: it waits for nothing else')
  return get(id, 'state')
end
if state == '' or ENDED[state] or get(id, 'wish') == 'cancel' or (get(id, 'held') ~= '') == (text ~= '') then
  return state
end
set(id, { held = text, lacks = '' })
if text == '' and get(id, 'over_budget') ~= '' then
  local currency = tostring(decoded(get(id, 'budget')).currency)
  set(id, { over_budget = '', budget_from = spent_of(id, currency, at) })
end
if state == 'waiting' and text == '' then return finish_or_requeue(id, 'queued', '', 'released', at) end
if state == 'waiting' then return finish_or_requeue(id, 'waiting', 'held', 'held ' .. text, at) end
if state == 'queued' then return finish_or_requeue(id, 'waiting', 'held', 'held ' .. text, at) end
note(id, at, '', text == '' and 'released before it was saved' or 'held ' .. text)
if text ~= '' and get(id, 'wish') == '' then
  set(id, { wish = 'stop' })
  redis.call('PUBLISH', P .. 'wish:' .. id, 'stop')
end
announce(id)
return state
