-- Drops one partition whose day is over; null when there is none.
select workerqueue.drop_expired_partition(%(attempts_days)s)
