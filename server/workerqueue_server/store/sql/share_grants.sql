-- Takes the lock of grant_leases first: before the locks of what precedes the grant in its transaction.
select pg_advisory_xact_lock_shared(7706, 0)
