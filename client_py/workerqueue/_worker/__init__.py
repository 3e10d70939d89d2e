"""The worker: leases tasks, runs handlers, answers for them.

* ``worker``: the public class; starts and stops the parts.
* ``connection``: keeps one Lease stream open, reconnects, hands over when a server drains.
* ``stream``: one Lease stream, a reading and a writing thread.
* ``ledger``: what is held and what is not confirmed; the only state the threads share.
* ``runner``: runs handlers on the event loop and in threads.
"""
