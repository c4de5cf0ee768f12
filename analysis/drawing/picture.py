"""A figure in memory, as a notebook shows it and as files hold it."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..notebook_repr import Brief

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDEX = "figures.json"  # beside the pictures of a folder: their runs, rows, choices and code
DPI = 300
SCREEN_DPI = 150  # of a picture in a notebook
IDS_IN_METADATA = 2000  # beyond this many runs a picture carries their hash; figures.json has all


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Picture(Brief):
    """A figure in memory: what `draw_all` writes and the report embeds."""

    name: str
    title: str
    papers: tuple[str, ...]
    figure: Figure
    table: pd.DataFrame | None  # everything it shows, tidy; None if the figure has no `data`
    run_ids: tuple[str, ...]
    columns: tuple[str, ...]  # the columns of the table it read
    rows: dict[str, str] = field(default_factory=dict)  # run id -> hash of its row in them
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def data_hash(self) -> str:
        return short_hash(json.dumps([self.columns, self.rows], sort_keys=True))

    def _brief(self) -> str:
        return f"Picture: {self.name}: {self.title} ({len(self.run_ids)} runs)"

    def _repr_png_(self) -> bytes:
        return image(self, "png", SCREEN_DPI)


def image(picture: Picture, form: str, dpi: int = DPI) -> bytes:
    """Render the picture as "png", "pdf" or "svg", with its runs and data hash in the metadata."""
    from . import style

    runs = ",".join(picture.run_ids)
    if len(picture.run_ids) > IDS_IN_METADATA:
        runs = f"{len(picture.run_ids)} runs, sha256 {short_hash(runs)}; listed in {INDEX}"
    metadata: dict[str, Any]
    if form == "png":
        metadata = {
            "Title": picture.title,
            "Software": "tokenlaw",
            "tokenlaw:figure": picture.name,
            "tokenlaw:data": picture.data_hash,
            "tokenlaw:runs": runs,
        }
    elif form == "pdf":
        metadata = {
            "Title": picture.title,
            "Subject": f"tokenlaw figure {picture.name}, data {picture.data_hash}",
            "Keywords": f"runs {runs}",
            "Creator": "tokenlaw",
            "CreationDate": None,
        }
    elif form == "svg":
        metadata = {"Title": picture.title, "Date": None, "Creator": "tokenlaw"}
    else:
        raise ValueError(f"format: {form!r} is unknown; allowed: png, pdf, svg")
    buffer = io.BytesIO()
    with style.paper():
        picture.figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def short_hash(text: str) -> str:
    """Return the first 16 hex digits of the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
