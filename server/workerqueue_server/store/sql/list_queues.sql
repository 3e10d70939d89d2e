-- Queues by name, after a given one; or those named.
select name, max_in_flight_per_worker, max_in_flight, operator_limits, paused, created_at
  from workerqueue.queues
 where (%(after)s::text is null or name > %(after)s)
   and (%(names)s::text[] is null or name = any (%(names)s))
 order by name
 limit %(limit)s
