"""Pretrained weight files: where they are looked for, and the check of their contents. No torch.

Nothing is ever downloaded here. A file is taken from the path that the settings name, or from the
cache where the libraries themselves would put it, and only with the sha256 that the config names:
those caches are not checked by their owners.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path


def cache_folder() -> Path:
    """Folder of torch hub's downloaded files, by the rules of torch.hub."""
    home = os.environ.get("TORCH_HOME")
    if home is None:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def find(name: str, sha256: str, locations: Mapping[str, str] | None, instead: str) -> Path:
    """Path of the weight file `name`, its contents verified.

    `sha256`: the digest or the first digits of it. `locations`: paths by file name, the settings'
    `locations.weights`. `instead` says in the error what works without the file. ValueError when
    the file is not there or is another.
    """
    given = (locations or {}).get(name)
    path = Path(given).expanduser() if given else cache_folder() / name
    if not path.is_file():
        where = (
            f"--weights {name}={given} was given, where there is no such file"
            if given
            else f"{path} does not exist and no --weights {name}=PATH was given"
        )
        raise ValueError(f"weights {name}: {where}; {instead}")
    found = file_sha256(path)
    if not found.startswith(sha256):
        raise ValueError(
            f"weights {name}: {path} has sha256 {found}, which does not begin with {sha256}; "
            f"it is another or a damaged file; {instead}"
        )
    return path


def file_sha256(path: Path) -> str:
    """Hex digest of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
