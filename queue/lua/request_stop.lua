-- request_stop(id, cancel | stop, text) -> the state it is in now
-- cancel: a job that no one owns ends at once; the owner of any other is asked to end it.
-- stop: its owner, if it has one, saves and hands it back; a job that is to be cancelled stays so.
local id, wish, text = ARGV[1], ARGV[2], ARGV[3]
local state, at = get(id, 'state'), now()
if state == '' or ENDED[state] then return state end
if not OWNED[state] then
  if wish == 'stop' then return state end
  return finish_or_requeue(id, 'cancelled', 'cancelled_by_user', text, at)
end
local known = get(id, 'wish')
if known ~= wish and known ~= 'cancel' then
  set(id, { wish = wish })
  note(id, at, '', text)
  announce(id)
  redis.call('PUBLISH', P .. 'wish:' .. id, wish)
end
return state
