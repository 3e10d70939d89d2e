"""Bare Debian roots: made with debootstrap, copied, entered with namespaces of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# What the base image has: a Python with its venv module, and certificates.
_SUITE = "bookworm"
_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def bare(cache: Path) -> Path:
    """The bare Debian, made if the cache does not have it."""
    root = cache / f"{_SUITE}-{'-'.join(_PACKAGES)}"
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        include = f"--include={','.join(_PACKAGES)}"
        subprocess.run(
            ["debootstrap", "--variant=minbase", include, _SUITE, str(partial)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        partial.rename(root)
    return root


def copy(origin: Path, target: Path) -> None:
    """A root of its own with the same files, and with this machine's way to the network."""
    subprocess.run(["cp", "--archive", "--reflink=auto", str(origin), str(target)], check=True)
    # As a Docker engine does it.
    shutil.copy("/etc/resolv.conf", target / "etc/resolv.conf")
    shutil.copy("/etc/hosts", target / "etc/hosts")
    if Path("/", _CERTIFICATES).exists():
        shutil.copy(Path("/", _CERTIFICATES), target / _CERTIFICATES)


def network_environment() -> dict[str, str]:
    """How this machine reaches a package index; a build needs it, an image must not hold it."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_CERT")
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in names or name == "PIP_DEFAULT_TIMEOUT"
    }


def entered(
    root: Path, words: Sequence[str], environment: Mapping[str, str], user: str, folder: str
) -> list[str]:
    """The command that runs ``words`` as process 1 of the root, with its own /proc and /dev/shm.

    ``user``: a number, or empty for root.
    """
    change = ("chroot", f"--userspec={user}:{user}", str(root)) if user else ("chroot", str(root))
    assigned = [f"{name}={value}" for name, value in environment.items()]
    return [
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc"),
        *("/bin/sh", "-c", f'mount -t tmpfs tmpfs "{root}/dev/shm" && exec "$@"', "sh"),
        *change,
        *("/usr/bin/env", "--ignore-environment", f"--chdir={folder}", *assigned),
        *words,
    ]
