"""Reads a Dockerfile: the part of its language that ours uses, and an error for the rest."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

_KNOWN = {
    *("ARG", "FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL"),
    *("HEALTHCHECK", "ENTRYPOINT", "CMD"),
}


@dataclass(frozen=True)
class Step:
    """One instruction: its keyword and what follows."""

    keyword: str
    text: str


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)


def read(text: str) -> list[Stage]:
    """The stages of a Dockerfile. Raises ValueError for what this program cannot do."""
    stages: list[Stage] = []
    arguments: dict[str, str] = {}
    for step in _steps(text):
        if step.keyword == "ARG" and not stages:
            name, _, value = step.text.partition("=")
            arguments[name] = value
        elif step.keyword == "FROM":
            base, _, name = expand(step.text, arguments).partition(" AS ")
            stages.append(Stage(name or f"stage {len(stages)}", base))
        elif step.keyword in _KNOWN and stages:
            stages[-1].steps.append(step)
        else:
            raise ValueError(f"cannot do {step.keyword} here")
    return stages


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced; a name that is not known becomes empty, as in Docker."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: variables.get(m[1] or m[2], ""), text)


def command(text: str) -> list[str]:
    """The words of a CMD, ENTRYPOINT or HEALTHCHECK in its JSON form."""
    words = json.loads(text)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"not a command in JSON form: {text}")
    return words


def assignments(text: str) -> dict[str, str]:
    """The variables of an ENV."""
    return dict(word.split("=", 1) for word in shlex.split(text))


def _steps(text: str) -> list[Step]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        if line.strip():
            keyword, _, rest = line.strip().partition(" ")
            found.append(Step(keyword.upper(), rest.strip()))
    return found
