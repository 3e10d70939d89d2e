"""The build context: which files `.dockerignore` lets in, and COPY."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path


class Context:
    """The files of a folder that a build may see."""

    def __init__(self, folder: Path) -> None:
        """Reads ``folder/.dockerignore``."""
        self._folder = folder
        lines = (folder / ".dockerignore").read_text().splitlines()
        self._rules = [line.strip() for line in lines if line.strip() and line[0] != "#"]

    def lets_in(self, path: Path) -> bool:
        """Whether a file is part of the context: the last rule that fits decides."""
        relative = path.relative_to(self._folder)
        names = [str(relative), *(str(parent) for parent in relative.parents[:-1])]
        admitted = True
        for rule in self._rules:
            pattern = rule.removeprefix("!")
            if any(_fits(name, pattern) for name in names):
                admitted = rule.startswith("!")
        return admitted

    def copy(self, source: str, target: Path) -> int:
        """Copies a file or a folder's content; how many files.

        Raises FileNotFoundError for none.
        """
        origin = self._folder / source
        files = [origin] if origin.is_file() else [f for f in origin.rglob("*") if f.is_file()]
        admitted = [file for file in files if self.lets_in(file)]
        if not admitted:
            raise FileNotFoundError(f"{source} is not in the build context")
        for file in admitted:
            place = target if origin.is_file() else target / file.relative_to(origin)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
        return len(admitted)


def _fits(name: str, pattern: str) -> bool:
    """Whether a rule is about this path; ``*`` stays within a level, ``**/`` goes over levels."""
    if pattern.startswith("**/"):
        return any(
            _fits("/".join(name.split("/")[start:]), pattern[3:])
            for start in range(name.count("/") + 1)
        )
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))
