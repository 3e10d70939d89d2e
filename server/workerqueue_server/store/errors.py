"""What can go wrong with the database, as the layers above need to tell it apart.

StoreError
 ├─ DatabaseUnavailable   no answer, or an answer that only time can change
 ├─ SchemaError           the schema does not fit this release
 └─ StatementFailed       the statement itself was refused (bad data or a fault of ours)
"""

import re

import psycopg
from psycopg import errors

# Out of memory, disk or connections; shutting down; starting up; read-only standby; a transaction
# that was idle for too long (this process stood still); and lock time-outs, where somebody else's
# transaction holds what we need.
_TRANSIENT_CLASSES = ("08", "53", "57", "58")
_TRANSIENT_CODES = ("25006", "25P03", "55P03")
# From the first quote to the last: a value may hold quotes itself.
_QUOTED = re.compile('".*"', re.DOTALL)


class StoreError(Exception):
    """Base of what this layer raises."""


class DatabaseUnavailable(StoreError):
    """The database does not answer, or cannot take writes now. Try again later."""


class SchemaError(StoreError):
    """The database's schema does not fit this release; the message says what to do."""


class StatementFailed(StoreError):
    """The database refused a statement."""


def translate(error: psycopg.Error) -> StoreError:
    """The store's error for one of the driver's. Its text may go into logs."""
    code = error.sqlstate or ""
    if code.startswith(_TRANSIENT_CLASSES) or code in _TRANSIENT_CODES:
        return DatabaseUnavailable(_reason(error))
    if not code and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return DatabaseUnavailable(str(error))
    return StatementFailed(f"{code or type(error).__name__}: {_reason(error)}")


def _reason(error: psycopg.Error) -> str:
    """What Postgres says, without the values it quotes: they may be what users sent.

    Details and contexts quote most of all, and are left out.
    """
    message = error.diag.message_primary
    if message is None:
        # The driver's own words, or those of a connection that failed: neither has values.
        return str(error) if isinstance(error, psycopg.OperationalError) else type(error).__name__
    return _QUOTED.sub('"..."', message)


def is_worth_repeating(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed at once: it lost against a concurrent one."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)
