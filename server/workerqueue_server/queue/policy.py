"""A kind's policy, read from its message's option and checked."""

from dataclasses import asdict, dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from workerqueue.v1 import policy_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import Violation

DEFAULT_QUEUE = "default"
DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_TIMEOUT_MS = 60 * bounds.SECOND
DEFAULT_LEASE_DURATION_MS = 30 * bounds.SECOND

# Seconds, as in the SQL function retention_of.
DEFAULT_RETENTION = (86_400, 86_400, 86_400, 14 * 86_400)

# Seconds in the order of the SQL function retention_of: succeeded, cancelled, expired, dead.
Retention = tuple[int | None, int | None, int | None, int | None]
# Initial ms, multiplier, maximum ms, jitter.
Retry = tuple[float, float, float, float]

# The names that the SQL functions use.
JOB_KEY_MODES = {
    policy_pb2.JOB_KEY_MODE_REPLACE: "replace",
    policy_pb2.JOB_KEY_MODE_PRESERVE_RUN_AT: "preserve_run_at",
    policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE: "unsafe_dedupe",
}
DEFAULT_JOB_KEY_MODE = "replace"


@dataclass(frozen=True, slots=True)
class Policy:
    """How tasks of one kind are treated. Durations in milliseconds."""

    queue: str = DEFAULT_QUEUE
    priority: int = 0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    lease_duration_ms: int = DEFAULT_LEASE_DURATION_MS
    concurrency_key: str = ""
    concurrency_limit: int = 1
    retry: Retry | None = None
    retention: Retention | None = None
    job_key: str = ""
    job_key_mode: str = DEFAULT_JOB_KEY_MODE

    def as_json(self) -> dict[str, object]:
        """The policy for the database's table of kinds."""
        return asdict(self)


class Checker:
    """Collects violations while fields are read, so that a caller hears of all at once."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.violations: list[Violation] = []

    def fail(self, field: str, description: str) -> None:
        """Notes one violation, of the first hundred."""
        if len(self.violations) < bounds.VIOLATIONS:
            self.violations.append(Violation(f"{self.prefix}{field}", description))

    def number(self, field: str, value: int, limits: tuple[int, int]) -> int:
        """The value; a violation if it is outside the limits."""
        low, high = limits
        if not low <= value <= high:
            self.fail(field, f"must be {low} to {high}, not {value}")
        return value

    def share(self, field: str, value: float, limits: tuple[float, float]) -> float:
        """The value; a violation if it is outside the limits or not a number."""
        low, high = limits
        if not low <= value <= high:
            self.fail(field, f"must be {low:g} to {high:g}, not {value:g}")
        return value

    def time(self, field: str, value: Timestamp) -> str:
        """The time in RFC 3339; a violation if it has no such form."""
        try:
            return value.ToJsonString()
        except ValueError:
            self.fail(field, "must be a time between the years 1 and 9999")
            return ""

    def milliseconds(self, field: str, value: Duration, limits: tuple[int, int]) -> int:
        """The duration in milliseconds; a violation if it is outside the limits."""
        result = value.seconds * 1000 + value.nanos // 1_000_000
        low, high = limits
        if not low <= result <= high:
            self.fail(
                field, f"must be {_readable(low)} to {_readable(high)}, not {result / 1000:g} s"
            )
        return result

    def worker(self, field: str, name: str) -> str:
        """The worker's id; a violation if it is none."""
        if not 1 <= len(name.encode()) <= bounds.NAME_BYTES or not name.isprintable():
            self.fail(field, f"must be 1 to {bounds.NAME_BYTES} printable bytes")
        return name

    def queue(self, field: str, name: str) -> str:
        """The queue's name; a violation if it is none."""
        if not bounds.is_queue_name(name):
            self.fail(field, "must be 1 to 128 letters, digits or any of ._:/-")
        return name

    def job_key_mode(self, field: str, mode: policy_pb2.JobKeyMode, default: str) -> str:
        """The mode's name; a violation if this server does not know it."""
        if mode == policy_pb2.JOB_KEY_MODE_UNSPECIFIED:
            return default
        name = JOB_KEY_MODES.get(mode)
        if name is None:
            self.fail(field, f"unknown mode {mode}")
        return name or default


def _readable(milliseconds: int) -> str:
    if milliseconds and milliseconds % bounds.DAY == 0:
        return f"{milliseconds // bounds.DAY} d"
    return f"{milliseconds / 1000:g} s"


def read_policy(option: policy_pb2.TaskPolicy, check: Checker) -> Policy:
    """The policy an option means; violations go to ``check``."""
    return Policy(
        queue=check.queue("queue", option.queue) if option.queue else DEFAULT_QUEUE,
        priority=check.number("priority", option.priority, bounds.PRIORITY),
        max_attempts=(
            check.number("max_attempts", option.max_attempts, bounds.MAX_ATTEMPTS)
            if option.max_attempts
            else DEFAULT_MAX_ATTEMPTS
        ),
        timeout_ms=(
            check.milliseconds("timeout", option.timeout, bounds.TIMEOUT_MS)
            if option.HasField("timeout")
            else DEFAULT_TIMEOUT_MS
        ),
        lease_duration_ms=(
            check.milliseconds("lease_duration", option.lease_duration, bounds.LEASE_DURATION_MS)
            if option.HasField("lease_duration")
            else DEFAULT_LEASE_DURATION_MS
        ),
        concurrency_key=option.concurrency_key,
        concurrency_limit=(
            check.number("concurrency_limit", option.concurrency_limit, bounds.CONCURRENCY_LIMIT)
            if option.concurrency_limit
            else 1
        ),
        retry=read_retry(option.retry, check) if option.HasField("retry") else None,
        retention=read_retention(option.retention, None, check),
        job_key=option.job_key,
        job_key_mode=check.job_key_mode("job_key_mode", option.job_key_mode, DEFAULT_JOB_KEY_MODE),
    )


def read_retry(option: policy_pb2.RetryPolicy, check: Checker) -> Retry:
    """The backoff a RetryPolicy means."""
    initial = (
        check.milliseconds(
            "retry.initial_backoff", option.initial_backoff, bounds.INITIAL_BACKOFF_MS
        )
        if option.HasField("initial_backoff")
        else bounds.SECOND
    )
    maximum = (
        check.milliseconds("retry.max_backoff", option.max_backoff, bounds.MAX_BACKOFF_MS)
        if option.HasField("max_backoff")
        else 3600 * bounds.SECOND
    )
    multiplier = (
        check.share("retry.multiplier", option.multiplier, bounds.BACKOFF_MULTIPLIER)
        if option.multiplier
        else 2.0
    )
    jitter = (
        check.share("retry.jitter", option.jitter, bounds.JITTER)
        if option.HasField("jitter")
        else 0.1
    )
    return (float(initial), multiplier, float(maximum), jitter)


def read_retention(
    option: policy_pb2.RetentionPolicy, base: Retention | None, check: Checker
) -> Retention | None:
    """The retention an option means over a base; None if all is default."""
    values: list[int | None] = list(base or (None, None, None, None))
    for place, field in enumerate(("succeeded", "cancelled", "expired", "dead")):
        if option.HasField(field):
            duration: Duration = getattr(option, field)
            values[place] = (
                check.milliseconds(f"retention.{field}", duration, bounds.RETENTION_MS) // 1000
            )
    return (
        (values[0], values[1], values[2], values[3]) if any(v is not None for v in values) else None
    )
