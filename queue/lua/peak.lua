-- peak(shape, fields as JSON, 1 if the run came to its end, shapes that are kept) -> 1
-- Keeps what trainings of a shape held of a GPU: the most that was measured, and what did not suffice one that ran out
-- of memory since. A run that comes to its end with less shows that the shape was not to blame. The shapes that were
-- measured longest ago go.
local shape, fields, done, most = ARGV[1], cjson.decode(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local known, at = decoded(hash_field('peaks', shape)), now()
local peak, oom = whole(known.peak_mib, 0), whole(known.oom_mib, 0)
if fields.oom_mib > 0 then
  oom = math.max(oom, fields.oom_mib)
elseif done then
  oom = 0
end
local entry = { peak_mib = math.max(peak, fields.peak_mib), oom_mib = oom, job = fields.job, box = fields.box, at_ms = at }
if fields.oom_mib == 0 and fields.peak_mib < peak and type(known.job) == 'string' and type(known.box) == 'string' then
  entry.job, entry.box, entry.at_ms = known.job, known.box, whole(known.at_ms, at)
end
keep_shape('peaks', shape, entry, at, most)
return 1
