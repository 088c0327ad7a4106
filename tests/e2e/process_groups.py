"""Processes of this machine, by who started them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Processes that `pid` started, and those that they started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(folder.name))
    found, waiting = set[int](), [pid]
    while waiting:
        waiting = [child for parent in waiting for child in children.get(parent, [])]
        found.update(waiting)
    return found


def environment_of(pid: int) -> str:
    """Variables of a process, each between two zeros; empty when it has gone."""
    with contextlib.suppress(OSError):
        return "\0" + Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return ""


def is_running(pid: int) -> bool:
    """Whether it is there and has not ended."""
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def group_of(leader: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(folder.name))
    return found
