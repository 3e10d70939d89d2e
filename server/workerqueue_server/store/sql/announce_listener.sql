-- Shows the other servers that this connection listens: a lock that ends with the connection.
select pg_advisory_lock_shared(7711, 0)
