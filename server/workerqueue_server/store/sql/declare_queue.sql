-- Takes a queue declaration of the contract, unless an operator has set the limits.
insert into workerqueue.queues as q (name, max_in_flight_per_worker, max_in_flight)
values (%(name)s, %(max_in_flight_per_worker)s, %(max_in_flight)s)
on conflict (name) do update
   set max_in_flight_per_worker = excluded.max_in_flight_per_worker,
       max_in_flight = excluded.max_in_flight
 where not q.operator_limits
   and (q.max_in_flight_per_worker, q.max_in_flight)
       is distinct from (excluded.max_in_flight_per_worker, excluded.max_in_flight)
