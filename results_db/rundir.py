"""Paths of the files of a run."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .durable import MisplacedError
from .endpoint import KINDS, check_name
from .strict_json import DamagedError, read_json

_ATTEMPT_FILE = re.compile(r"(\d{3,6})\.json")


def default_home() -> Path:
    """Return the folder of all runs: $TOKENLAW_HOME, or ./runs."""
    return Path(os.environ.get("TOKENLAW_HOME") or "runs")


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder <home>/<kind>/<id> of a run, whether it is there yet or not."""

    path: Path  # absolute

    def __init__(self, path: "str | os.PathLike[str] | RunDir") -> None:
        """Take the run's folder.

        Raises:
            ValueError: its name, its parent's, or a link shows that it is no run folder.
        """
        folder = path.path if isinstance(path, RunDir) else Path(os.path.abspath(path))
        check_name("run folder", folder.name)
        if folder.parent.name not in KINDS:
            raise ValueError(
                f"run folder: {folder}, allowed is <home>/<kind>/<id>, kinds: {', '.join(KINDS)}"
            )
        if folder.is_symlink():
            raise ValueError(f"run folder: {folder} is a link, allowed are plain folders")
        object.__setattr__(self, "path", folder)

    @classmethod
    def of(cls, home: str | os.PathLike[str], kind: str, run_id: str) -> "RunDir":
        """Return the folder of run `run_id` under `home`."""
        check_name("run id", run_id)
        return cls(Path(home) / kind / run_id)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def kind(self) -> str:
        return self.path.parent.name

    @property
    def home(self) -> Path:
        return self.path.parent.parent

    @property
    def owner(self) -> dict[str, str]:
        """Return the run's kind and id, which mark the files that it leaves."""
        return {"kind": self.kind, "id": self.id}

    @property
    def redo(self) -> str:
        """Return the advice on making anew what a finished run left."""
        return f"to make it anew, remove {self.endpoint_path} and launch again"

    @property
    def rewrite(self) -> str:
        """Return the advice on writing config.json anew."""
        return f"to make it anew, remove it and {self.endpoint_path} and launch the study again"

    def check_owner(self, path: Path, owner: object, cure: str | None = None) -> None:
        """Raise MisplacedError unless `owner`, stated at `path`, is this run.

        None passes: older homes do not state an owner.
        """
        if owner is None or owner == self.owner:
            return
        kind, run_id = (owner.get(key) if isinstance(owner, dict) else "?" for key in self.owner)
        raise MisplacedError(
            f"{path}: belongs to {kind} {run_id}, not to {self.kind} {self.id}; move it back, "
            f"and put this run's own in its place; {cure or self.redo}"
        )

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def settings_path(self) -> Path:
        return self.path / "settings.json"

    @property
    def attempts_path(self) -> Path:
        return self.path / "attempts"

    @property
    def heartbeat_path(self) -> Path:
        return self.path / "heartbeat"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def log_path(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def artifacts_path(self) -> Path:
        return self.path / "artifacts"

    @property
    def endpoint_path(self) -> Path:
        return self.path / "endpoint.json"

    def attempt_path(self, number: int) -> Path:
        """Return the path of the claim of attempt `number`."""
        return self.attempts_path / f"{number:03d}.json"

    def attempt_end_path(self, number: int) -> Path:
        """Return the path of the record of how attempt `number` ended.

        The file is missing while the attempt runs, and for ever when it was killed.
        """
        return self.attempts_path / f"{number:03d}.end.json"

    def attempts(self) -> list[int]:
        """Return the numbers of all attempts so far, ascending."""
        try:
            return attempt_numbers(os.listdir(self.attempts_path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def config(self) -> dict[str, Any]:
        """Read config.json: {"scheme", "id", "kind", "config", "parents"}.

        Raises:
            FileNotFoundError: the run was never planned here.
            DamagedError: the file is not what it should be, or belongs to another run.
        """
        try:
            content = read_json(self.config_path)
        except DamagedError as error:
            raise DamagedError(f"{error}; {self.rewrite}") from error
        if (
            not isinstance(content, dict)
            or not isinstance(content.get("config"), dict)
            or not isinstance(parents := content.get("parents", {}), dict)
            or not all(isinstance(parent, str) for parent in parents.values())
        ):
            raise DamagedError(f"{self.config_path}: not a run's config; {self.rewrite}")
        told = {key: content.get(key) for key in self.owner}
        self.check_owner(self.config_path, told, self.rewrite)
        return content


def attempt_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the attempts that have a claim among the files `names`, ascending."""
    return sorted(int(match[1]) for match in map(_ATTEMPT_FILE.fullmatch, names) if match)


def find_run(home: Path, run_id: str) -> RunDir | None:
    """Return the folder of a run, whatever its kind; None where there is none."""
    folders = (RunDir.of(home, kind, run_id) for kind in KINDS)
    return next((folder for folder in folders if folder.path.is_dir()), None)
