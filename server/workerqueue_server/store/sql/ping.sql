-- Answers when the database does, and can write.
select not pg_is_in_recovery() and not current_setting('transaction_read_only')::boolean
