"""Trunks in a plan: runs with the wsd schedule become branches of segments that they share.

What a branch and a segment are called follows from the run alone (trainer/accounting/trunks.py): a
segment's id says where it ends. So a plan only decides where each new segment begins, which is as
late as something planned or finished allows; ids never depend on which other durations a study has,
and what is finished stays of use whatever is added later.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..results_db.record import RunDir, run_state
from ..results_db.strict_json import read_json
from ..trainer.accounting import trunks
from ..trainer.accounting.config import decode_run
from ..trainer.accounting.identity import RunIds

MOST_FOLDERS = 5000  # of other studies, looked at for segments that are finished

Parents = dict[str, str]


@dataclass(slots=True)
class _Trunk:
    """One trunk of a study."""

    kind: str
    ids: RunIds
    config: trunks.Config  # of its segment of one iteration
    parents: Parents  # of its first segment
    id: str = ""
    ends: dict[int, str] = field(default_factory=dict)  # where segments end -> their ids
    starts: dict[int, int] = field(default_factory=dict)  # where each of them begins

    def segment(self, end: int) -> str:
        """The id of the segment that ends at `end`, which the trunk has from now on."""
        if end not in self.ends:
            config = dataclasses.replace(self.config, iterations=end)
            self.ends[end] = self.ids.of(self.kind, config, self.parents)
        return self.ends[end]

    def chain(self, end: int) -> Iterator[int]:
        """Ends of the segments that lead to `end`, backwards."""
        while end:
            yield end
            end = self.starts[end]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a plan."""

    id: str
    kind: str
    config: trunks.Config
    parents: Parents


class Trunks:
    """The trunks of a study."""

    def __init__(self, ids: RunIds) -> None:
        self._ids = ids
        self._trunks: dict[Any, _Trunk] = {}
        self._of_branch: dict[str, tuple[_Trunk, int]] = {}

    def branch(
        self, kind: str, config: trunks.Config, parents: Parents
    ) -> tuple[str, trunks.Config, Parents] | None:
        """Id, config and parents of a run that leaves its trunk for the decay; None for a run that
        has no trunk.
        """
        point = trunks.branch_point(config)
        if point == 0:
            return None
        first = trunks.segment(config, start=0, end=1)
        key = (kind, first, tuple(sorted(parents.items())))
        if key not in self._trunks:
            trunk_id = self._ids.of(kind, first, parents)
            self._trunks[key] = _Trunk(kind, self._ids, first, dict(parents), trunk_id)
        trunk = self._trunks[key]
        made = trunks.branch(config)
        above = {**parents, trunks.ROLE: trunk.segment(point)}
        branch_id = self._ids.of(kind, made, above)
        self._of_branch[branch_id] = trunk, point
        return branch_id, made, above

    def lay(self, home: str | os.PathLike[str]) -> list[Segment]:
        """All segments, those of a trunk in order. Where one that is in `home` began is kept."""
        made: list[Segment] = []
        there = _Home(home, self._trunks.values())
        for trunk in self._trunks.values():
            self._lay_one(trunk, there)
            for end in sorted(trunk.ends):
                start = trunk.starts[end]
                above = {trunks.ROLE: trunk.ends[start]} if start else {}
                made.append(
                    Segment(
                        id=trunk.ends[end],
                        kind=trunk.kind,
                        config=trunks.segment(trunk.config, start=start, end=end),
                        parents={**trunk.parents, **above},
                    )
                )
        return made

    def _lay_one(self, trunk: _Trunk, there: _Home) -> None:
        """Decides where each segment begins: first of those that are there, which may bring others
        that they went on from, then of the new ones.
        """
        for end in list(trunk.ends):
            self._keep(trunk, there, end)
        while new := set(trunk.ends) - set(trunk.starts):
            end = min(new)
            others = [*trunk.ends, *there.finished(trunk)]
            start = max((other for other in others if other < end), default=0)
            trunk.starts[end] = start
            if start:
                self._keep(trunk, there, start)

    def _keep(self, trunk: _Trunk, there: _Home, end: int) -> None:
        """Takes the segment that ends at `end`, and those before it, as they were begun."""
        while end and end not in trunk.starts:
            start = there.start(trunk.kind, trunk.segment(end))
            if start is None:
                return
            trunk.starts[end] = start
            end = start

    def passed(self, branch_id: str) -> list[str]:
        """Ids of the segments that lead to a branch."""
        if branch_id not in self._of_branch:
            return []
        trunk, point = self._of_branch[branch_id]
        return [trunk.ends[end] for end in trunk.chain(point)]


class _Home:
    """What a home has of trunks. Its folders are listed once: on a network file system every call
    counts.
    """

    def __init__(self, home: str | os.PathLike[str], known: Iterable[_Trunk]) -> None:
        self._home = home
        self._known = list(known)
        kinds = {trunk.kind for trunk in self._known}
        self._names = {kind: _names(Path(home) / kind) for kind in kinds}
        self._ends: dict[str, set[int]] | None = None  # by trunk

    def start(self, kind: str, segment: str) -> int | None:
        """Where a segment that has a folder begins; None when it has none yet."""
        if segment not in self._names[kind]:
            return None
        try:
            config = RunDir.of(self._home, kind, segment).config()["config"]
        except FileNotFoundError:
            return None  # made, and left before its config was written
        return int(config["trunk"]["start"])

    def finished(self, trunk: _Trunk) -> set[int]:
        """Ends of the finished segments of a trunk, also those that no study has named here."""
        if self._ends is None:
            self._ends = {known.id: set() for known in self._known}
            for kind in self._names:
                self._look(kind, self._ends)
        return self._ends[trunk.id]

    def _look(self, kind: str, ends: dict[str, set[int]]) -> None:
        named = {segment for trunk in self._known for segment in trunk.ends.values()}
        for name in sorted(self._names[kind] - named)[:MOST_FOLDERS]:
            run = RunDir.of(self._home, kind, name)
            stored = _stored_segment(run)
            if stored is None:
                continue
            trunk = trunks.trunk_id(kind, *stored)
            if trunk in ends and run_state(run) == "done":
                ends[trunk].add(stored[0].iterations)


def _stored_segment(run: RunDir) -> tuple[trunks.Config, Mapping[str, str]] | None:
    """Config and parents of a segment in a run folder; None when something else is there."""
    try:
        # Most folders hold other runs: their text says so before anything is decoded.
        if b'"role":"segment"' not in run.config_path.read_bytes():
            return None
        stored = read_json(run.config_path)
    except FileNotFoundError:
        return None
    try:
        config = decode_run(stored["kind"], stored["config"])
    except ValueError:
        return None  # made by other code: not a segment of what is planned now
    return config, stored["parents"]


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
