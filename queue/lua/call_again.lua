-- call_again() -> 1
-- Wakes the next idle boxes for jobs that those woken a second ago have not claimed.
call_again(now(), 50)
return 1
