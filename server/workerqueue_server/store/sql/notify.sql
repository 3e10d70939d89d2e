-- Sends one hint to the other servers.
select pg_notify(%(channel)s, %(payload)s)
