"""Postgres: connections, migrations and the statements of the queue.

Knows SQL and nothing of the rules above it. Every statement is a file in ``sql/``; what must happen
in one transaction is a function made by ``migrations/``.
"""
