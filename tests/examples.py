"""How many examples a test with hypothesis looks at."""

from __future__ import annotations

import os

# Set: new examples, and many. Not set: the same ones in every run.
EXPLORES = bool(os.environ.get("WORKERQUEUE_EXPLORE"))

_TIMES_WHEN_EXPLORING = 10


def examples(count: int) -> int:
    """So many in each run of the tests, and many more where new ones are looked for."""
    return count * _TIMES_WHEN_EXPLORING if EXPLORES else count
