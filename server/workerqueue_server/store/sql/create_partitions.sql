-- Makes the daily partitions from today to the given number of days ahead.
select workerqueue.create_partitions(%(days)s)
