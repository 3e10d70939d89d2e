-- Milliseconds until the next tick of any schedule of these kinds; null: there is none.
select extract(epoch from s.next_tick - clock_timestamp())::double precision * 1000
  from workerqueue.schedules s
 where not s.paused and s.next_tick is not null and s.kind = any(%(kinds)s)
 order by s.next_tick
 limit 1
