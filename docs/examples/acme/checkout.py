"""Takes an order and enqueues its invoice in one transaction."""

import os

import psycopg
from acme.jobs.v1.jobs_pb2 import Customer, Line, SendInvoice

from workerqueue import transactional

with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("create table if not exists orders (id bigint primary key, article text)")
    connection.execute("insert into orders values (44, 'Pot')")
    stored = transactional.enqueue(
        connection,
        SendInvoice(
            order_id=44,
            customer=Customer(id="c-2", email="bob@example.com"),
            lines=[Line(article="Pot", cents=3900)],
        ),
    )
    print(stored.outcome)
# The transaction is committed here; an exception above would have left neither order nor task.
