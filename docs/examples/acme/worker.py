"""Makes invoices until SIGTERM."""

from acme.jobs.v1.jobs_pb2 import Invoice, SendInvoice

from workerqueue import TaskContext, Worker

worker = Worker(queues=["invoices"], concurrency=10)


@worker.handler(SendInvoice)
async def send_invoice(order: SendInvoice, context: TaskContext) -> Invoice:
    total = sum(line.cents for line in order.lines)
    print(f"order {order.order_id}: {len(order.lines)} lines to {order.customer.email}")
    return Invoice(number=f"2026-{order.order_id}", total_cents=total)


worker.run()
