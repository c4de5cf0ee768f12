"""Arrays of a run for figures: from the results on disk, or from an exported folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .index import Vectors


def from_home(home: str | Path | None = None) -> Vectors:
    """Read the artifacts of finished runs under $TOKENLAW_HOME (or `home`), checked by hash."""

    def get(run_id: str, name: str) -> Any:
        from ...results_db.read import artifact

        return artifact(run_id, name, home)

    return get


def from_folder(folder: str | Path) -> Vectors:
    """Read arrays exported as FOLDER/RUN_ID/NAME (NAME ends in .npy or .npz), or JSON (.json)."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"vectors: {str(root)!r} is not a folder")

    def get(run_id: str, name: str) -> Any:
        path = root / run_id / name
        if not path.is_file():
            raise ValueError(f"vectors: {str(path)!r} is missing")
        if path.suffix == ".json":
            return json.loads(path.read_text())
        loaded = np.load(path, allow_pickle=False)
        if path.suffix == ".npy":
            return loaded
        with loaded:
            return {key: loaded[key] for key in loaded.files}

    return get
