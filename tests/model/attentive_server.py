"""`workerqueue serve` as it is, but for how often its duties look at the clock.

The clock of a model test jumps; a server that looks twice a second would make every jump last half
a second. What only makes up for lost announcements is slowed down instead, to once an hour:
whatever waits for it is waited for in vain, and the test sees that an announcement is missing.

No window is narrowed, since that depends on how long the test really takes; it has its own tests.
"""

from __future__ import annotations

import math
import sys

from workerqueue_server.cli.main import main
from workerqueue_server.queue import dispatcher, keyed, maintenance, narrowing

_OFTEN = 0.02
_HARDLY_EVER = 3600.0


def attend() -> None:
    """Changes the pauses between the duties, and lets no lease run out by the real clock."""
    for name in ("_EXPIRY_SECONDS", "_PROMOTE_SECONDS", "_UNSTARTED_SECONDS"):
        assert hasattr(maintenance, name)
        setattr(maintenance, name, _OFTEN)
    for module, name, value in (
        (maintenance, "_ADMIT_SECONDS", _HARDLY_EVER),
        (maintenance, "_AUDIT_SECONDS", _HARDLY_EVER),
        (dispatcher, "_SWEEP_SECONDS", _HARDLY_EVER),
        (keyed, "_SETTLE_SECONDS", _HARDLY_EVER),
        (narrowing, "_WHOLE", math.inf),
    ):
        assert hasattr(module, name)
        setattr(module, name, value)


if __name__ == "__main__":
    attend()
    sys.exit(main())
