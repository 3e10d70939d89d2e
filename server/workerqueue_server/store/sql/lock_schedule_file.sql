-- Servers that read the same file take turns.
select pg_advisory_xact_lock(7720, hashtext(%(file_owner)s))
