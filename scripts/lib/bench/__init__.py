"""Measures the queue: rates, latencies and their ratio to the same work in plain SQL.

Everything runs on one machine, in processes of its own: PostgreSQL with the settings that the
embedded server uses, `workerqueue serve`, and the load.
"""
