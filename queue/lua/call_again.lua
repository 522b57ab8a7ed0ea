-- call_again() -> 1
-- Wakes the next idle boxes for jobs that those woken a second ago have not claimed, and queues jobs whose time has come.
local at = now()
call_again(at, 50)
release_due(at, 50)
return 1
