-- cancel(id, text) -> the state it is in now
-- A job that no one owns ends at once; the owner of any other is asked to end it.
local id, text = ARGV[1], ARGV[2]
local state, at = get(id, 'state'), now()
if state == '' or ENDED[state] then return state end
if not OWNED[state] then return settle(id, 'cancelled', 'cancelled_by_user', text, at) end
if get(id, 'wish') ~= 'cancel' then
  set(id, { wish = 'cancel' })
  note(id, at, '', text)
  announce(id)
  redis.call('PUBLISH', P .. 'wish:' .. id, 'cancel')
end
return state
