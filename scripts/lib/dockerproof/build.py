"""Does the steps of the stages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerproof import root as roots
from dockerproof.context import Context
from dockerproof.dockerfile import Stage, Step, assignments, command, expand

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def say(line: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@dataclass
class Image:
    """What a stage has become."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    user: str = ""
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"


class Builder:
    """Makes an image of each stage."""

    def __init__(self, context: Context, base: Path, folder: Path) -> None:
        """``base`` stands for the image that the stages begin with; ``folder`` takes the roots."""
        self._context = context
        self._base = base
        self._folder = folder
        self._images: dict[str, Image] = {}

    def build(self, stage: Stage) -> Image:
        """Does the steps of a stage. Raises CalledProcessError for a RUN that fails."""
        image = Image(self._folder / stage.name.replace(" ", "-"))
        roots.copy(self._base, image.root)
        self._images[stage.name] = image
        for step in stage.steps:
            shown = re.sub(r"\s+", " ", step.text)
            say(f"  {step.keyword} {shown[:100]}{'...' if len(shown) > 100 else ''}")
            self._do(image, step)
        return image

    def _do(self, image: Image, step: Step) -> None:
        match step.keyword:
            case "RUN":
                self._run(image, step.text)
            case "COPY":
                self._copy(image, step.text)
            case "WORKDIR":
                image.folder = step.text
                self._inside(image, step.text).mkdir(parents=True, exist_ok=True)
            case _:
                _note(image, step)

    def _run(self, image: Image, text: str) -> None:
        environment = image.environment | roots.network_environment()
        words = ["/bin/sh", "-c", text]
        done = subprocess.run(
            roots.entered(image.root, words, environment, image.user, image.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            say(done.stdout)
            raise subprocess.CalledProcessError(done.returncode, text)

    def _copy(self, image: Image, text: str) -> None:
        *sources, target = text.split()
        origin = ""
        if sources[0].startswith("--from="):
            origin = sources.pop(0).removeprefix("--from=")
        place = self._inside(image, target)
        for source in sources:
            if origin:
                found = self._inside(self._images[origin], source)
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True)
            else:
                into = place / source if target.endswith("/") else place
                self._context.copy(source, into)

    def _inside(self, image: Image, path: str) -> Path:
        """The place of a path of the image in this machine's file system."""
        return image.root / Path(image.folder, path).relative_to("/")


def _note(image: Image, step: Step) -> None:
    """What a step says of the container that is to run."""
    match step.keyword:
        case "ENV":
            image.environment |= assignments(expand(step.text, image.environment))
        case "USER":
            image.user = step.text
        case "ENTRYPOINT":
            image.entrypoint = command(step.text)
        case "CMD":
            image.arguments = command(step.text)
        case "HEALTHCHECK":
            image.health = command(step.text.split(" CMD ", 1)[1])
        case "STOPSIGNAL":
            image.stop_signal = step.text
        case "VOLUME" | "EXPOSE":
            pass
        case other:
            raise ValueError(f"cannot do {other} here")
