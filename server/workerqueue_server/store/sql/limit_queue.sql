-- Sets a queue's limits (0: none) where given, or gives them back to the contract's declaration.
update workerqueue.queues
   set max_in_flight_per_worker = case
         when %(per_worker)s::integer is null then max_in_flight_per_worker
         else nullif(%(per_worker)s, 0) end,
       max_in_flight = case
         when %(total)s::integer is null then max_in_flight
         else nullif(%(total)s, 0) end,
       operator_limits = %(operator_limits)s
 where name = %(name)s
returning name
