-- Queues that limit or pause.
select name, max_in_flight_per_worker, max_in_flight, paused
  from workerqueue.queues
 where paused or max_in_flight_per_worker is not null or max_in_flight is not null
