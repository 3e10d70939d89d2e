"""The check of the contract against the last release, with a release made up in a clone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, run

_AS = ("-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "commit.gpgsign=false")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository of its own with the contract as it is now, committed."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "proto", folder / "proto")
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "check-breaking", folder / "scripts")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "buf").symlink_to(Path(sys.executable).with_name("buf"))
    (folder / ".gitignore").write_text("/.venv/\n")
    run("git", "init", "--quiet", cwd=folder)
    _commit(folder)
    return folder


def _commit(folder: Path) -> None:
    run("git", "add", "--all", cwd=folder)
    run("git", *_AS, "commit", "--quiet", "--message", "A state", cwd=folder)


def _check(folder: Path) -> tuple[int, str]:
    done = run("scripts/check-breaking", cwd=folder, check=False)
    return done.returncode, done.stdout


def _edit(folder: Path, old: str, new: str) -> None:
    file = folder / "proto" / "workerqueue" / "v1" / "lease.proto"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    _commit(folder)


def test_without_a_release_there_is_nothing_to_compare(clone: Path) -> None:
    assert _check(clone) == (0, "Not compared: no release is tagged yet.\n")


def test_an_added_field_is_no_break(clone: Path) -> None:
    run("git", "tag", "v0.1.0", cwd=clone)
    _edit(clone, "message Drain {", "message Drain {\n  // Why.\n  string reason = 1000;\n")

    assert _check(clone) == (0, "Compared with v0.1.0.\n")


def test_a_changed_field_is_named(clone: Path) -> None:
    run("git", "tag", "v0.1.0", cwd=clone)
    held = "  // The presented token.\n  {} lease_token = 1;"
    _edit(clone, held.format("bytes"), held.format("string"))
    code, said = _check(clone)

    assert code != 0
    assert said.startswith("Compared with v0.1.0.\n")
    assert 'changed type from "bytes" to "string"' in said


def test_the_newest_release_counts(clone: Path) -> None:
    run("git", "tag", "v0.1.0", cwd=clone)
    _edit(clone, "message Drain {", "message Drain {\n  // Why.\n  string reason = 1000;\n")
    run("git", "tag", "v0.2.0", cwd=clone)
    _edit(clone, "  // Why.\n  string reason = 1000;\n", "")
    code, said = _check(clone)

    assert code != 0
    assert said.startswith("Compared with v0.2.0.\n")
    assert '"1000"' in said
