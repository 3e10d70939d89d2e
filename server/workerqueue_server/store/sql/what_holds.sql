-- What decides whether a waiting task runs; see workerqueue.what_holds.
select behind, holders, held_by, ahead, paused, max_in_flight, max_in_flight_per_worker, in_flight,
       kind_known, now
  from workerqueue.what_holds(%(id)s)
