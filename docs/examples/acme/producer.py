"""Enqueues an invoice twice, and waits for it."""

from acme.jobs.v1.jobs_pb2 import Customer, Invoice, Line, SendInvoice

from workerqueue import Client, InvalidPayloadError

ada = Customer(id="c-1", email="ada@example.com")

with Client() as client:
    order = SendInvoice(order_id=42, customer=ada, lines=[Line(article="Tea", cents=450)])
    first = client.enqueue(order, delay=1)
    order.lines.add(article="Cup", cents=1250)
    second = client.enqueue(order)
    print(first.outcome, second.outcome, first.task_id == second.task_id)

    invoice = second.result(timeout=30, message_class=Invoice)
    print(f"{invoice.number}: {invoice.total_cents / 100:.2f}")

    try:
        client.enqueue(SendInvoice(order_id=43, customer=Customer(id="c-1", email="nobody")))
    except InvalidPayloadError as error:
        for violation in error.violations:
            print(f"refused: {violation.field}: {violation.description}")
