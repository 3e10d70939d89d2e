"""Fixtures for every test: real PostgreSQL, one major or several.

`--pg 18,16` runs each test that uses a database on those majors. Without it tests run on the newest
major at hand, and those marked `all_postgres` on every one.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer

from tests.examples import EXPLORES
from tests.leftovers import none_left
from tests.parallel import FileByFile, processes, slow_files_first
from tests.postgres import (
    RUN_FOLDER,
    ClusterPool,
    Database,
    PostgresCluster,
    available_majors,
    prepare_account,
)
from tests.warm import WARM_STARTS

_FOLDER = pytest.StashKey[str]()

# Where it is set, each of the hundreds of processes that tests start compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell's background job has SIGINT ignored, and so would all that it starts: programs under test
# are to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that a red run can be repeated; WORKERQUEUE_EXPLORE=1 looks for
# new ones. How long they take says how busy the machine is.
settings.register_profile(
    "repeatable",
    derandomize=not EXPLORES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg",
        metavar="MAJORS",
        help="PostgreSQL majors to run on, such as 18,16 (default: the newest; "
        "tests marked all_postgres: all at hand)",
    )


# Before pytest chooses its temporary folder.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    _chosen_majors(config)
    # Whoever ends the tests, ends what they have started too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if _is_main_process(config):
        _use_folder_of_this_run(config)
        prepare_account()


def _use_folder_of_this_run(config: pytest.Config) -> None:
    """A folder that no other run knows, for `tmp_path` and for what the run's processes share.

    The embedded server opens its folder, and all above it, to the account that PostgreSQL runs as;
    the next run of any tests would close the folder that pytest shares between runs.
    """
    # Short, because there will be sockets in it.
    folder = tempfile.mkdtemp(prefix="wq-")
    config.stash[_FOLDER] = os.environ[RUN_FOLDER] = folder
    if config.option.basetemp is None:
        config.option.basetemp = f"{folder}/t"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and (folder := session.config.stash.get(_FOLDER, "")):
        shutil.rmtree(folder, ignore_errors=True)


def _is_main_process(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput")


def pytest_xdist_auto_num_workers() -> int:
    return processes()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileByFile:
    return FileByFile(config, log)


# After pytest has brought together what shares a cluster.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = slow_files_first(items)
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(0))


def pytest_report_header(config: pytest.Config) -> str:
    at_hand = ", ".join(map(str, available_majors()))
    return f"postgresql: {at_hand} at hand; chosen: {config.getoption('--pg') or 'default'}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_major" not in metafunc.fixturenames:
        return
    majors = _chosen_majors(metafunc.config)
    if majors is None:
        majors = list(available_majors())
        if metafunc.definition.get_closest_marker("all_postgres") is None:
            majors = majors[:1]
    ids = [f"pg{major}" for major in majors]
    metafunc.parametrize("postgres_major", majors, ids=ids, scope="session")


def _chosen_majors(config: pytest.Config) -> list[int] | None:
    option = config.getoption("--pg")
    if option is None:
        return None
    at_hand = available_majors()
    chosen = [int(major) if major.isdecimal() else 0 for major in option.split(",")]
    if not set(chosen) <= set(at_hand):
        raise pytest.UsageError(
            f"--pg {option}: at hand are the majors {', '.join(map(str, at_hand))}"
        )
    return chosen


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> Iterator[None]:
    """No process outlives the tests. Begins before every other fixture and ends after it."""
    with none_left():
        yield
        WARM_STARTS.close()


@pytest.fixture(scope="session")
def cluster_pool() -> Iterator[ClusterPool]:
    """The shared clusters; destroyed when the tests end."""
    pool = ClusterPool()
    yield pool
    pool.destroy()


@pytest.fixture(scope="session")
def postgres(postgres_major: int, cluster_pool: ClusterPool) -> PostgresCluster:
    """A running cluster that other tests share: leave it running."""
    return cluster_pool.get(postgres_major)


@pytest.fixture
def database(postgres: PostgresCluster) -> Iterator[Database]:
    """An empty database of the test's own, dropped afterwards."""
    database = postgres.create_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture
def migrated(postgres: PostgresCluster) -> Iterator[Database]:
    """A database of the test's own with the schema in it, dropped afterwards."""
    database = postgres.create_migrated_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture
def own_postgres(postgres_major: int) -> Iterator[PostgresCluster]:
    """A running cluster of the test's own, to stop, kill, freeze and start at will."""
    cluster = PostgresCluster(postgres_major)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.thaw()
        cluster.destroy()
