-- How long the oldest available task of each queue could have run already, in milliseconds.
select queue,
       (extract(epoch from clock_timestamp() - available_since) * 1000)::bigint as age_ms
  from workerqueue.oldest_available(%(queues)s)
