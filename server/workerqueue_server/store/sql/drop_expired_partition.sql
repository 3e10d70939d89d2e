-- Drops one partition whose day is over; see workerqueue.drop_expired_partition.
select dropped, held_by from workerqueue.drop_expired_partition(%(attempts_days)s)
