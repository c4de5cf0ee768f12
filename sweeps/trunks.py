"""Trunks in a plan: runs with the wsd schedule become branches of segments that they share.

What a branch and a segment are called follows from the run alone (trainer/trunks.py): a segment's
id says where it ends. So a plan only decides where each new segment begins, which is as late as
something planned or finished allows; ids never depend on which other durations a study has, and
what is finished stays of use whatever is added later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results_db.durable import read_json
from results_db.record import RunDir, run_state
from trainer import trunks
from trainer.config import decode_run, run_id

MOST_FOLDERS = 5000  # of other studies, looked at for segments that are finished

Parents = dict[str, str]


@dataclass(slots=True)
class _Trunk:
    """One trunk of a study."""

    kind: str
    id: str
    config: trunks.Config  # of its segment of one iteration
    parents: Parents  # of its first segment
    ends: dict[int, str] = field(default_factory=dict)  # where segments end -> their ids
    starts: dict[int, int] = field(default_factory=dict)  # where each of them begins

    def segment(self, end: int) -> str:
        """The id of the segment that ends at `end`, which the trunk has from now on."""
        if end not in self.ends:
            config = trunks.segment(self.config, start=0, end=end)
            self.ends[end] = run_id(self.kind, config, self.parents)
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
    trunk: str
    end: int


class Trunks:
    """The trunks of a study."""

    def __init__(self) -> None:
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
            trunk_id = run_id(kind, first, parents)
            self._trunks[key] = _Trunk(kind, trunk_id, first, dict(parents))
        trunk = self._trunks[key]
        made = trunks.branch(config)
        above = {**parents, trunks.ROLE: trunk.segment(point)}
        branch_id = run_id(kind, made, above)
        self._of_branch[branch_id] = trunk, point
        return branch_id, made, above

    def lay(self, home: str | os.PathLike[str]) -> list[Segment]:
        """All segments, those of a trunk in order. Where one that is in `home` began is kept."""
        made: list[Segment] = []
        finished = _Finished(home, self._trunks.values())
        for trunk in self._trunks.values():
            self._lay_one(home, trunk, finished)
            for end in sorted(trunk.ends):
                start = trunk.starts[end]
                above = {trunks.ROLE: trunk.ends[start]} if start else {}
                made.append(
                    Segment(
                        id=trunk.ends[end],
                        kind=trunk.kind,
                        config=trunks.segment(trunk.config, start=start, end=end),
                        parents={**trunk.parents, **above},
                        trunk=trunk.id,
                        end=end,
                    )
                )
        return made

    def _lay_one(self, home: str | os.PathLike[str], trunk: _Trunk, finished: _Finished) -> None:
        """Decides where each segment begins: first of those that are there, which may bring others
        that they went on from, then of the new ones.
        """
        for end in list(trunk.ends):
            self._keep(home, trunk, end)
        for end in sorted(set(trunk.ends) - set(trunk.starts)):
            there = [*trunk.ends, *finished.ends(trunk)]
            start = max((other for other in there if other < end), default=0)
            trunk.starts[end] = start
            if start:
                self._keep(home, trunk, start)

    def _keep(self, home: str | os.PathLike[str], trunk: _Trunk, end: int) -> None:
        """Takes the segment that ends at `end`, and those before it, as they are in `home`."""
        while end and end not in trunk.starts:
            start = stored_start(RunDir.of(home, trunk.kind, trunk.segment(end)))
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


def stored_start(run: RunDir) -> int | None:
    """Where the segment in a run folder begins; None when there is no such folder yet."""
    try:
        return int(run.config()["config"]["trunk"]["start"])
    except FileNotFoundError:
        return None


class _Finished:
    """Finished segments in a home that no plan has named; looked for when first asked."""

    def __init__(self, home: str | os.PathLike[str], known: Any) -> None:
        self._home = home
        self._known = list(known)
        self._ends: dict[str, set[int]] | None = None  # by trunk

    def ends(self, trunk: _Trunk) -> set[int]:
        if self._ends is None:
            self._ends = {known.id: set() for known in self._known}
            for kind in {known.kind for known in self._known}:
                self._look(kind, self._ends)
        return self._ends[trunk.id]

    def _look(self, kind: str, ends: dict[str, set[int]]) -> None:
        named = {segment for trunk in self._known for segment in trunk.ends.values()}
        for name in _folders(Path(self._home) / kind, named)[:MOST_FOLDERS]:
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


def _folders(folder: Path, without: set[str]) -> list[str]:
    try:
        return sorted(set(os.listdir(folder)) - without)
    except FileNotFoundError:
        return []
