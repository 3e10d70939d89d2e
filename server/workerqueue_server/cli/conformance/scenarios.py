"""The scenarios: what is demanded of a worker, and of a producer."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from workerqueue.conformance.v1 import conformance_pb2 as script_pb2
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_pb2
from workerqueue_server.cli.conformance.program import Failed, Program
from workerqueue_server.cli.conformance.stage import (
    SOON_SECONDS,
    Stage,
    expect,
    expect_attempts,
    expect_state,
    failure,
    seconds,
    turn,
    until,
)

_DEAD = task_pb2.TASK_STATE_DEAD
_SUCCEEDED = task_pb2.ATTEMPT_OUTCOME_SUCCEEDED
_FAILED = task_pb2.ATTEMPT_OUTCOME_FAILED

# Letters of several scripts, a character outside the basic plane, joined emoji, right-to-left text,
# and all that JSON and shells must quote.
UNICODE = (
    "žluťoučký кот 猫 🐈‍⬛ שלום \"quoted\" back\\slash new\nline tab\t $HOME `id` 'x' \u2028 %s {0}"
)
MEGABYTE = 1_000_000
MANY_TASKS = 10_000
_MANY_SECONDS = 180.0
# Fields 5001 and 5002, as a later version of the contract might have them.
_UNKNOWN_FIELDS = b"\xc8\xb8\x02\x2a\xd2\xb8\x02\x05later"


@dataclass(frozen=True)
class Scenario:
    """One demand.

    Attributes:
        name: For --scenario and the table.
        demand: What the program must do, for --list.
        run: Raises Failed.
        disrupts: Whether it takes servers away, so that nothing else can run meanwhile.
        of_producer: Whether it tests the producer.
    """

    name: str
    demand: str
    run: Callable[[Stage], Awaitable[None]]
    disrupts: bool = False
    of_producer: bool = False


async def _ack(stage: Stage) -> None:
    worker = await stage.worker()
    task_id = await stage.enqueue(text="hello")
    report = await stage.succeeded(task_id)
    expected = script_pb2.Report(text="hello", attempt=1)
    expect(report == expected, f"the report is {report}, not {expected}")
    await worker.says("started", task_id, limit=SOON_SECONDS)
    await worker.says("finished", task_id, limit=SOON_SECONDS)


async def _nack(stage: Stage) -> None:
    await stage.worker()
    task_id = await stage.enqueue(turn(fail=failure("no luck: ☂")), turn())
    report = await stage.succeeded(task_id)
    expect(report.attempt == 2, f"the second attempt reported the number {report.attempt}")
    task = await stage.task(task_id)
    expect_attempts(task, _FAILED, _SUCCEEDED)
    error = task.attempts[0].error
    expect(
        (error.type, error.message) == ("ScriptedFailure", "no luck: ☂"),
        f"the error arrived as {error.type!r}, {error.message!r}",
    )


async def _retry_after(stage: Stage) -> None:
    await stage.worker()
    wait = 1.5
    task_id = await stage.enqueue(turn(fail=failure("later", retry_after=wait)), turn())
    await stage.succeeded(task_id)
    task = await stage.task(task_id)
    expect_attempts(task, _FAILED, _SUCCEEDED)
    waited = (
        task.attempts[1].started_at.ToMicroseconds() - task.attempts[0].finished_at.ToMicroseconds()
    )
    expect(waited >= wait * 1e6, f"the next attempt came after {waited / 1e6:.2f} s, not {wait} s")


async def _permanent_failure(stage: Stage) -> None:
    await stage.worker()
    task_id = await stage.enqueue(turn(fail=failure("hopeless", permanent=True)))
    task = await stage.ended(task_id)
    expect_state(task, _DEAD)
    expect_attempts(task, _FAILED)
    expect(task.last_error.message == "hopeless", f"the error is {task.last_error.message!r}")


async def _checkpoint(stage: Stage) -> None:
    await stage.worker()
    mark = "page 7 of 20: ½"
    task_id = await stage.enqueue(turn(checkpoint=mark, fail=failure("power cut")), turn())
    report = await stage.succeeded(task_id)
    expect(report.attempt == 2, f"the report is of attempt {report.attempt}, not 2")
    expect(report.checkpoint == mark, f"the next attempt got the checkpoint {report.checkpoint!r}")


async def _heartbeat(stage: Stage) -> None:
    await stage.worker()
    # Shorter than the kind's lease, so that the welcome's interval alone would be too long.
    task_id = await stage.enqueue(turn(6.0), lease_duration=seconds(2.0))
    await stage.succeeded(task_id, limit=30.0)
    expect_attempts(await stage.task(task_id), _SUCCEEDED)


async def _cancel(stage: Stage) -> None:
    worker = await stage.worker(window=1)
    task_id = await stage.enqueue(turn(50.0), lease_duration=seconds(2.0))
    await worker.says("started", task_id, limit=SOON_SECONDS)
    await stage.cancel(task_id)
    await worker.says("stopped", task_id, limit=SOON_SECONDS)
    expect_state(await stage.task(task_id), task_pb2.TASK_STATE_CANCELLED)
    # With a window of one, this also shows that the place of the stopped task is free.
    await stage.works_on()


async def _timeout(stage: Stage) -> None:
    worker = await stage.worker(window=1)
    task_id = await stage.enqueue(
        turn(50.0), timeout=seconds(1.5), max_attempts=1, lease_duration=seconds(2.0)
    )
    await worker.says("stopped", task_id, limit=SOON_SECONDS)
    task = await stage.ended(task_id)
    expect_state(task, _DEAD)
    expect_attempts(task, task_pb2.ATTEMPT_OUTCOME_TIMED_OUT)
    await stage.works_on()


async def _window(stage: Stage) -> None:
    window, tasks = 3, 9
    worker = await stage.worker(window)
    ids = await stage.enqueue_all([("", [turn(0.5)])] * tasks)
    for task_id in ids:
        await stage.succeeded(task_id, limit=60.0)
        await worker.says("finished", task_id, limit=SOON_SECONDS)
    peak = _peak(worker)
    expect(peak <= window, f"{peak} tasks were handled at once with a window of {window}")
    expect(peak == window, f"at most {peak} tasks were handled at once with a window of {window}")


def _peak(worker: Program) -> int:
    held: set[str] = set()
    peak = 0
    for event in worker.events:
        if event.event == "started":
            held.add(event.task_id)
            peak = max(peak, len(held))
        elif event.event in ("finished", "stopped"):
            held.discard(event.task_id)
    return peak


async def _lease_lost(stage: Stage) -> None:
    worker = await stage.worker(window=2)
    # One attempt: a second one would be given to the frozen worker too.
    task_id = await stage.enqueue(turn(3.0), lease_duration=seconds(1.0), max_attempts=1)
    await worker.says("started", task_id, limit=SOON_SECONDS)
    worker.freeze()
    try:
        task = await stage.ended(task_id)
    finally:
        worker.thaw()
    expect_attempts(task, task_pb2.ATTEMPT_OUTCOME_LOST)
    await worker.says("stopped", task_id, limit=SOON_SECONDS)
    await stage.works_on()
    expect_state(await stage.task(task_id), _DEAD)
    finished = [e for e in worker.events if (e.event, e.task_id) == ("finished", task_id)]
    expect(not finished, "the worker takes the answer for a lost lease for confirmed")


async def _payloads(stage: Stage) -> None:
    await stage.worker(window=10)
    texts = ["", UNICODE, "a" * MEGABYTE, "猫🐈" * (MEGABYTE // 7)]
    # More than one frame can carry, in results as well as in payloads.
    texts += [letter * MEGABYTE for letter in "bcd"]
    ids = [await stage.enqueue(text=text) for text in texts]
    for task_id, text in zip(ids, texts, strict=True):
        report = await stage.succeeded(task_id, limit=60.0)
        expect(
            report.text == text,
            f"{len(text)} characters ({text[:20]!r}...) came back as {len(report.text)} "
            f"({report.text[:20]!r}...)",
        )


async def _unknown_fields(stage: Stage) -> None:
    await stage.worker()
    task_id = await stage.enqueue(text="from a later contract", extra=_UNKNOWN_FIELDS)
    report = await stage.succeeded(task_id)
    expect(report.text == "from a later contract", f"the report has the text {report.text!r}")


async def _catalog(stage: Stage) -> None:
    await stage.worker()
    email = tasks_pb2.ScheduleEmail(to="ada@example.com", subject="Grüße: ☂", text="Bis bald")
    job = tasks_pb2.RegisterJob(endpoint_id="endpoint_1")
    job.job.update({"name": "nightly — 夜", "version": "1.0", "tags": ["a", None]})
    await _expect_report(stage, email, "ada@example.com: Grüße: ☂")
    await _expect_report(stage, job, "endpoint_1: nightly — 夜")


async def _own_kind(stage: Stage) -> None:
    await stage.worker()
    order = script_pb2.Order(
        number=9_007_199_254_740_991,
        lines=[
            script_pb2.OrderLine(article="tea", count=3, cents=500),
            script_pb2.OrderLine(article="pot", count=1, cents=5_000_000_000),
            script_pb2.OrderLine(article="voucher", count=2, cents=-50),
        ],
    )
    await _expect_report(stage, order, "9007199254740991: 5000001400")
    await _expect_report(stage, script_pb2.Order(), "0: 0")


async def _expect_report(stage: Stage, payload: Message, text: str) -> None:
    report = await stage.succeeded(await stage.enqueue_message(payload))
    name = payload.DESCRIPTOR.full_name
    expect(report.text == text, f"the report for a {name} has the text {report.text!r}")
    expect(report.attempt == 1, f"the report for a {name} is of attempt {report.attempt}")


async def _ten_thousand(stage: Stage) -> None:
    worker = await stage.worker(window=500)
    expected: set[str] = set()
    for start in range(0, MANY_TASKS, 1_000):
        numbers = range(start, start + 1_000)
        expected.update(await stage.enqueue_all([(f"task {number}", []) for number in numbers]))

    def all_finished() -> bool:
        return sum(event.event == "finished" for event in worker.events) >= MANY_TASKS

    await worker.until(all_finished, f"{MANY_TASKS} finished tasks", _MANY_SECONDS)
    finished = [event.task_id for event in worker.events if event.event == "finished"]
    expect(len(finished) == MANY_TASKS, f"{len(finished)} tasks were finished, not {MANY_TASKS}")
    expect(set(finished) == expected, "other tasks were finished than those that were enqueued")
    expect(not await stage.take_all(), "tasks are left in the queue")
    for task_id in sorted(expected)[:: MANY_TASKS // 50]:
        expect_attempts(await stage.task(task_id), _SUCCEEDED)


async def _drain(stage: Stage) -> None:
    worker = await stage.worker()
    task_id = await stage.enqueue(turn(4.0))
    await worker.says("started", task_id, limit=SOON_SECONDS)
    await stage.servers.hand_over()
    await stage.succeeded(task_id)
    expect_attempts(await stage.task(task_id), _SUCCEEDED)
    await stage.works_on(limit=30.0)


async def _killed(stage: Stage) -> None:
    worker = await stage.worker()
    # The first ends while no server is there, the second after that.
    # On a busy machine a server takes a while to start: what is tested is that nothing gets lost
    # meanwhile, so the leases outlast it.
    ids = await stage.enqueue_all(
        [("short", [turn(0.5)]), ("long", [turn(7.0)])],
        lease_duration=seconds(120.0),
        timeout=seconds(300.0),
    )
    for task_id in ids:
        await worker.says("started", task_id, limit=SOON_SECONDS)
    await stage.servers.replace_killed()
    for task_id in ids:
        await stage.succeeded(task_id, limit=60.0)
        expect_attempts(await stage.task(task_id), _SUCCEEDED)
    await stage.works_on(limit=30.0)


async def _shutdown(stage: Stage) -> None:
    worker = await stage.worker(window=1)
    task_id = await stage.enqueue(turn(2.0))
    await worker.says("started", task_id, limit=SOON_SECONDS)
    worker.close_input()
    report = await stage.succeeded(task_id)
    expect(report.attempt == 1, "the task that was held was not finished in its attempt")
    code = await worker.exit_code(limit=15.0)
    expect(code == 0, f"the program exited with {code}")
    later = await stage.enqueue()
    left = [task.task_id for task in await stage.take_all()]
    expect(left == [later], "a task was taken after the worker had drained")


async def _produce(stage: Stage) -> None:
    task_id, text = str(uuid.uuid4()), UNICODE.replace("\n", " ")
    for outcome in ("CREATED", "ALREADY_EXISTED"):
        program = await stage.producer(task_id, text)
        event = await program.says("enqueued", task_id, limit=SOON_SECONDS)
        expect(event.outcome == outcome, f"the outcome is said to be {event.outcome}")
        expect(await program.exit_code(SOON_SECONDS) == 0, "the exit code is not 0")
    await _check_produced(stage, task_id, text)


async def _produce_outage(stage: Stage) -> None:
    task_id = str(uuid.uuid4())
    before = stage.servers.turned_away

    async def tried_twice() -> bool | None:
        return stage.servers.turned_away >= before + 2 or None

    stage.servers.cut_off()
    try:
        program = await stage.producer(task_id, "patience")
        await until(tried_twice, "a second try to reach the server", SOON_SECONDS)
    finally:
        stage.servers.lead_back()
    await program.says("enqueued", task_id, limit=30.0)
    await _check_produced(stage, task_id, "patience")


async def _check_produced(stage: Stage, task_id: str, text: str) -> None:
    async def look() -> task_pb2.Task:
        return await stage.task(task_id)

    task = await until(look, f"the task {task_id}", SOON_SECONDS)
    script = script_pb2.Script()
    if not task.payload.Unpack(script):
        raise Failed(f"the payload is a {task.payload.type_url}")
    expect(script.text == text, f"the text arrived as {script.text!r}, not {text!r}")
    expect(task.queue == stage.queue, f"the task went to the queue {task.queue}")


SCENARIOS = (
    Scenario("ack", "A task is acked with a typed result.", _ack),
    Scenario("nack", "An error is reported and the next attempt is taken.", _nack),
    Scenario("retry-after", "A nack says when to try again.", _retry_after),
    Scenario("permanent-failure", "A nack buries the task at once.", _permanent_failure),
    Scenario("checkpoint", "What one attempt stored, the next one continues from.", _checkpoint),
    Scenario("heartbeat", "A task runs three times as long as its lease.", _heartbeat),
    Scenario("cancel", "Cancelled work stops, and its place is free.", _cancel),
    Scenario("timeout", "Work past its attempt timeout stops.", _timeout),
    Scenario("window", "The window is used, and never exceeded.", _window),
    Scenario("lease-lost", "Frozen past its lease, a worker stops and goes on.", _lease_lost),
    Scenario("payloads", "Unicode, quotes and megabytes come back unchanged.", _payloads),
    Scenario("unknown-fields", "Fields of a later contract do no harm.", _unknown_fields),
    Scenario("catalog", "Kinds of the built-in catalog are read as their messages.", _catalog),
    Scenario("own-kind", "A kind from a descriptor set is read as its message.", _own_kind),
    Scenario("ten-thousand", "10,000 tasks, each finished once.", _ten_thousand),
    Scenario("shutdown", "Asked to go, it finishes what it holds and exits 0.", _shutdown),
    Scenario(
        "produce", "An enqueue repeated with its id makes one task.", _produce, of_producer=True
    ),
    Scenario("drain", "A server drains: work goes on with its successor.", _drain, disrupts=True),
    Scenario(
        "killed", "A server is killed: no lease and no answer is lost.", _killed, disrupts=True
    ),
    Scenario(
        "produce-outage",
        "An enqueue waits for a server that is away.",
        _produce_outage,
        disrupts=True,
        of_producer=True,
    ),
)
