-- bump(id, priority, queue, text) -> the state it is in now
-- A queued job moves to the end of its new queue; any other comes back into it when it is interrupted.
local id, priority, queue, text = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = get(id, 'state')
if state == '' or ENDED[state] or get(id, 'priority') == priority then return state end
if state == 'queued' then
  give_share_back(id)
  unqueue(id)
end
set(id, { priority = priority, queue = queue })
if state == 'queued' then enqueue_last(id) end
note(id, now(), '', text)
announce(id)
return state
