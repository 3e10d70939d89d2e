"""One version, and a changelog that agrees with it and with the tags."""

from __future__ import annotations

import re
import subprocess
from datetime import date
from itertools import pairwise
from typing import NamedTuple

from tests.packaging.conftest import ROOT, project
from workerqueue_server import __version__

_CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
# semver.org's own expression, without build metadata, which a Python version cannot carry.
_SEMANTIC = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
)
_SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


class Release(NamedTuple):
    """A heading of the changelog."""

    version: tuple[int, int, int]
    on: date


def _releases() -> list[Release]:
    headings = re.findall(r"^## (.+)$", _CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    found = []
    for heading in headings[1:]:
        match = re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading)
        assert match, heading
        found.append(Release(_numbers(match[1]), date.fromisoformat(match[2])))
    return found


def _numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


def test_the_version_is_semantic_and_stands_in_one_place() -> None:
    version = project()["version"]

    assert _SEMANTIC.fullmatch(version)
    # Installed editable: it is read from pyproject.toml's metadata.
    assert __version__ == version
    places = [
        file
        for folder in ("client_py", "server", "scripts")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(rf"""["']{re.escape(version)}["']""", file.read_text())
    ]
    assert places == []


def test_the_changelog_keeps_its_form() -> None:
    assert set(re.findall(r"^### (.+)$", _CHANGELOG, re.MULTILINE)) <= _SECTIONS
    for newer, older in pairwise(_releases()):
        assert newer.version > older.version
        assert newer.on >= older.on


def test_the_version_is_the_next_or_the_last_release() -> None:
    current, releases = _numbers(project()["version"]), _releases()
    if releases:
        assert current >= releases[0].version
    unreleased = _CHANGELOG.split("\n## ")[1].partition("\n")[2].strip()
    # Either something is yet to be released under a version that is not used up, or all is.
    assert unreleased or (releases and current == releases[0].version)


def test_tags_and_changelog_name_the_same_releases() -> None:
    listed = subprocess.run(
        ["git", "tag", "--list", "v*", "--merged"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    tags = {_numbers(tag.removeprefix("v")) for tag in listed.stdout.split()}
    releases = [release.version for release in _releases()]
    # The commit that is about to be tagged has the heading already; a shallow clone has no tags.
    assert tags <= set(releases)
    if tags:
        assert set(releases[1:]) <= tags
