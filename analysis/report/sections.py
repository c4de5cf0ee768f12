"""What `tokenlaw report` does: one self-contained HTML page about a study or a table.

The same table gives the same page: it bears no date, and hashes of its data in place of one.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from ..cautions import cautions
from ..direction import best_row
from ..drawing import index, panels, style
from ..drawing.index import Picture, Vectors
from ..request import FrontierRequest, ReportRequest, Request
from ..result import Comparison
from ..study_columns import named
from ..vocabulary import heading
from . import interactive
from . import tables as report_tables
from .laws import fits_section
from .page import Html, definitions, details, figure, head_cell, html, number, page, table

# Pictures with more points than this are embedded as pixels: vectors would make the page heavy.
VECTOR_POINTS = 3000
ROWS_SHOWN = 2000  # end points listed one by one; more would make a page nobody opens
ROWS_ON_PAPER = 120  # end points listed in print


def write(
    source: str | pd.DataFrame,
    out_path: str | Path,
    request: ReportRequest | None = None,
    *,
    home: str | Path | None = None,
    vectors: Vectors | None = None,
    asked: Request | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of a study (by name) or of a wide table to `out_path`, and return it.

    `vectors` gives the runs' arrays to the figures that need them (a study brings its own);
    `asked` names the columns and rows of the table.
    Raises ValueError in one line when the source has no rows.
    """
    request, sets = request or ReportRequest(), []
    if isinstance(source, str):
        from ...results_db.read import data_lines, endpoints
        from ..drawing.vectors import from_home

        sets = data_lines(source, home)
        df = endpoints(source, wide=True, home=home)
        vectors = vectors or from_home(home)
        command, title = source, request.title or source
    else:
        df, command, title = source, "TABLE", request.title or "Table of end points"
    if not len(df):
        raise ValueError(f"report: {title!r} has no rows")
    df = index.prepare(df, asked)
    out_path = Path(out_path)

    comparisons, refused = _comparisons(df, request)
    pictures, not_drawn = _pictures(df, request, vectors, progress)
    # Only what can be zoomed into needs the large library.
    library = interactive.library() if request.zoom is not False and pictures else None
    if request.zoom and pictures and library is None:
        raise ValueError("report: zoom needs plotly; install the extra 'report'")

    x_name = panels.axis_name(df, named(df, "flops_train"))
    sections = [
        ("summary", "Summary", _summary(df, comparisons)),
        ("fits", "Frontiers and laws", fits_section(comparisons, refused, x_name)),
        ("figures", "Figures", _figures(pictures, not_drawn, library is not None)),
        ("tables", "Tables", _tables(df)),
        ("left-out", "What was left out", _left_out(df, comparisons)),
        ("checklist", "Reporting checklist", _checklist(comparisons)),
        ("provenance", "Provenance", _provenance(df, comparisons)),
        ("reproduce", "How to reproduce", _reproduce(command, request, asked or Request())),
    ]
    sections = [(key, heading, body) for key, heading, body in sections if body]
    content = page(title, sections, _head(title, df, sets), library or "")
    out_path.parent.mkdir(parents=True, exist_ok=True)
    index._replace(out_path, content.encode())
    return out_path


def _comparisons(
    df: pd.DataFrame, request: ReportRequest
) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Metric -> frontiers of all arms; metric -> why there are none."""
    found: dict[str, Comparison] = {}
    refused: dict[str, str] = {}
    metrics = [panels.loss_column(df, "report")]
    metrics += [name for name in panels.DISTANCES if name in df.columns and df[name].notna().any()]
    for metric in dict.fromkeys(metrics):
        try:
            panels.need(df, ("flops_train", metric), "frontiers")
            asked = FrontierRequest(
                x=named(df, "flops_train"),
                y=metric,
                group="arm",
                bootstrap=request.bootstrap,
                seed=request.seed,
            )
            found[metric] = panels.compared(df, asked)
        except ValueError as error:
            refused[metric] = str(error)
    return found, refused


def _pictures(
    df: pd.DataFrame,
    request: ReportRequest,
    vectors: Vectors | None,
    progress: Callable[[str], None] | None,
) -> tuple[list[Picture], list[tuple[str, str]]]:
    pictures, not_drawn = [], []
    options = {"bootstrap": request.bootstrap, "seed": request.seed}
    known = index.names()
    first = ("loss_vs_flops", "distance_vs_flops", "crt_vs_baseline", "distance_vs_loss")
    order = [n for n in first if n in known] + [n for n in known if n not in first]
    for name in order if request.only is None else request.only:
        try:
            pictures.append(index.make(df, name, options=options, vectors=vectors))
        except ValueError as error:
            if request.only is not None:
                raise
            not_drawn.append((name, str(error).removeprefix(f"{name}: ")))
        else:
            if progress is not None:
                progress(name)
    return pictures, not_drawn


def _head(title: str, df: pd.DataFrame, data_sets: Sequence[str]) -> Html:
    states = df["status"].value_counts() if "status" in df.columns else pd.Series({"done": len(df)})
    done, diverged = int(states.get("done", 0)), int(states.get("diverged", 0))
    waiting = len(df) - done - diverged
    arms = style.arm_order(df["arm"].dropna())
    sets = list(data_sets)
    if not sets and "dataset" in df.columns:
        sets = sorted(str(d) for d in df["dataset"].dropna().unique())
    text = f"{done} rows"
    if df.attrs["ours"]:
        text = f"{done} finished generator runs"
    text += f" in {_plural(len(arms), 'arm')} ({', '.join(arms)})"
    if sets:
        text += f" on {'; '.join(sets)}"
    if diverged:
        text += f"; {diverged} diverged"
    if waiting:
        text += f"; {waiting} not finished yet, so every number here may still move"
    return Html(f"<h1>{html(title)}</h1><p class=lead>{html(text)}.</p>")


def _summary(df: pd.DataFrame, comparisons: dict[str, Comparison]) -> Html:
    metrics = list(comparisons)
    compute = named(df, "flops_train")
    spent = style.short(panels.axis_name(df, compute)) if compute in df.columns else "train FLOPs"
    heads: list[Any] = ["arm", "runs", "diverged", head_cell(spent, "lowest to highest")]
    heads += [head_cell(f"best {style.word_of(m)}", _unit(df, m)) for m in metrics]
    shared = [
        column
        for column in ("rfid", "rfcd", "psnr", "ms_ssim", "ssim", "codebook_usage")
        if column in df.columns and df[column].notna().any()
    ]
    heads += [head_cell(style.short(style.name_of(c)), _unit(df, c)) for c in shared]
    hours = "gpu_hours" in df.columns and df["gpu_hours"].notna().any()
    heads += [_hours_name(df)] if hours else []
    rows = []
    for arm in style.arm_order(df["arm"].dropna()):
        mine = df[df["arm"] == arm]
        done = mine[mine["status"].eq("done")] if "status" in mine.columns else mine
        lost = int(mine["status"].eq("diverged").sum()) if "status" in mine.columns else 0
        row: list[Any] = [arm, len(done), lost]
        known = compute in done.columns and done[compute].dtype.kind in "fiu"
        flops = done[compute].dropna() if known else pd.Series()
        spread = (
            f"{number(flops.min(), 3)} &ndash; {number(flops.max(), 3)}"
            if len(flops)
            else "&ndash;"
        )
        row.append(Html(spread))
        for metric in metrics:
            row.append(_best(done, metric, comparisons[metric].direction))
        for column in shared:
            values = pd.to_numeric(done[column], errors="coerce").dropna()
            row.append(float(values.mean()) if len(values) else None)
        if hours:
            row.append(float(pd.to_numeric(mine["gpu_hours"], errors="coerce").sum()))
        rows.append(row)
    caption = "One row per arm. Click a heading to sort."
    bars = dict.fromkeys(filter(None, (panels.bar_words(df, metric) for metric in metrics)))
    if bars:
        caption += f" Plus-minus: {', '.join(bars)} of that run."
    out = table(heads, rows, caption=caption, sortable=True)
    shown = df.head(ROWS_SHOWN)
    words = f"All {len(df)} end points"
    if len(shown) < len(df):
        words = f"The first {len(shown)} of {len(df)} end points (the table has them all)"
    every = _all_runs(shown, metrics)
    out = Html(_cautions(df) + out)
    return Html(out + details(words, every, dense=True, paper=len(df) <= ROWS_ON_PAPER))


def _cautions(df: pd.DataFrame) -> Html:
    """Reasons to distrust distances, before the distances."""
    lines = "".join(f'<p class="warn"><b>Caution.</b> {html(text)}</p>' for text in cautions(df))
    return Html(lines)


def _all_runs(df: pd.DataFrame, metrics: Sequence[str]) -> Html:
    wanted = ["arm", "run_id", "status", "size", "iterations", "params", named(df, "flops_train")]
    wanted += metrics
    wanted += [
        "rfcd",
        "rfid",
        "codebook_size",
        "tokens_per_image",
        "train_seed",
        "gpu_hours",
        "attempts",
    ]
    columns = [c for c in dict.fromkeys(wanted) if c in df.columns and df[c].notna().any()]
    rows = []
    for _, run in df.loc[:, columns].iterrows():
        rows.append(
            [
                Html(f"<code>{html(v)}</code>") if c == "run_id" else _cell(v)
                for c, v in zip(columns, run, strict=True)
            ]
        )
    heads = [head_cell(style.short(style.name_of(c)), _unit(df, c)) for c in columns]
    return table(heads, rows, sortable=True)


def _best(done: pd.DataFrame, metric: str, direction: str) -> Any:
    values = pd.to_numeric(done[metric], errors="coerce").dropna()
    if not len(values):
        return None
    at = best_row(values, direction)
    text = str(number(float(values[at])))
    spread = panels.spread_of(done, metric)
    if pd.notna(spread[at]):
        return Html(f"{text} &plusmn; {number(float(spread[at]), 2)}")
    return Html(text)


def _figures(pictures: Sequence[Picture], not_drawn: Sequence[tuple[str, str]], zoom: bool) -> Html:
    parts = ['<div class="figures">']
    if not pictures:
        flags = " ".join(f"--{key}" for key in index.ASKED[:5])
        parts.insert(0, f"<p>No figure can be drawn; {flags} name the columns of a table.</p>")
    for picture in pictures:
        points = 0 if picture.table is None else len(picture.table)
        kind, mime = ("png", "png") if points > VECTOR_POINTS else ("svg", "svg+xml")
        content = index.image(picture, kind, dpi=200)
        caption = f"{_plural(len(picture.run_ids), 'run')}, data hash {picture.data_hash}"
        if picture.papers:
            caption = f"Answers to {', '.join(picture.papers)}. {caption}"
        plot = None
        if zoom and picture.table is not None:
            plot = interactive.specification(picture.table)
        share = float(picture.figure.get_size_inches()[0]) / style.DOUBLE
        parts.append(
            figure(
                picture.name,
                picture.title,
                content,
                mime,
                caption=Html(f"<span class=quiet>{html(caption)}.</span>"),
                share=share,
                plot=plot,
            )
        )
    if not_drawn:
        rows = [[Html(f"<code>{html(name)}</code>"), reason] for name, reason in not_drawn]
        summary = f"{_plural(len(not_drawn), 'figure')} this table does not allow, and why"
        parts.append(details(summary, table(["figure", "reason"], rows, text_columns=(1,))))
    return Html("".join([*parts, "</div>"]))


def _tables(df: pd.DataFrame) -> Html:
    parts = []
    for one in report_tables.all_tables(df):
        heads = [Html(h) if isinstance(h, Html) else h for h in one.heads]
        parts.append(f"<h3>{html(one.title)}</h3>")
        parts.append(table(heads, one.rows, caption=one.note, marked=one.marked))
    return Html("".join(parts))


def _left_out(df: pd.DataFrame, comparisons: dict[str, Comparison]) -> Html:
    rows = []
    for metric, comparison in comparisons.items():
        for one in comparison.left_out:
            ids = Html(" ".join(f"<code>{html(r)}</code>" for r in one.rows) or "&ndash;")
            rows.append([style.word_of(metric), one.count, one.reason, ids])
    parts: list[str] = []
    if rows:
        heads = ["fit of", "rows", "rule", "runs (the first 20)"]
        parts.append(table(heads, rows, text_columns=(2, 3)))
    elif comparisons:
        parts.append("<p>Nothing: every row of the table entered the fits.</p>")
    else:
        parts.append("<p>No fit was made.</p>")
    if "status" in df.columns and "reason" in df.columns:
        lost = df[df["status"].eq("diverged")]
        if len(lost):
            rows = [
                [Html(f"<code>{html(i)}</code>"), a, r or None]
                for i, a, r in zip(lost["run_id"], lost["arm"], lost["reason"], strict=True)
            ]
            parts.append(
                table(["run", "arm", "why"], rows, caption="Diverged runs.", text_columns=(2,))
            )
    return Html("".join(parts))


def _checklist(comparisons: dict[str, Comparison]) -> Html:
    parts = []
    for metric, comparison in comparisons.items():
        if comparison.checklist:
            parts.append(f"<h3>{html(heading(style.name_of(metric)))}</h3>")
            parts.append(definitions([(item.name, item.text) for item in comparison.checklist]))
    return Html("".join(parts))


def _provenance(df: pd.DataFrame, comparisons: dict[str, Comparison]) -> Html:
    pairs: list[tuple[str, Any]] = []
    for column, name in (
        ("study", "study"),
        ("commit", "commit of the runs"),
        ("dataset", "data set"),
        ("gfcd_extractor", "classifier behind gFCD"),
        ("gfcd_extractor_accuracy", "its accuracy on validation images"),
        ("hardware", "hardware"),
    ):
        if column in df.columns and df[column].notna().any():
            values = sorted({str(v) for v in df[column].dropna()})
            pairs.append((name, ", ".join(values)))
    if "dirty" in df.columns and df["dirty"].eq(True).any():
        count = int(df["dirty"].eq(True).sum())
        pairs.append(("uncommitted changes", f"{count} runs were made with uncommitted changes"))
    pairs.append(
        ("data of the fits", ", ".join(f"{m} {c.data_hash}" for m, c in comparisons.items()))
    )
    packages = ("tokenlaw", "numpy", "pandas", "scipy", "matplotlib")
    pairs.append(("analysis made with", ", ".join([_python(), *map(_version, packages)])))
    ids = " ".join(f"<code>{html(i)}</code>" for i in sorted(set(df["run_id"].astype(str))))
    listed = ""
    if df.attrs["runs"]:
        listed = details(
            f"Ids of all {_plural(df['run_id'].nunique(), 'run')}",
            Html(f'<p class="ids">{ids}</p>'),
            paper=len(df) <= ROWS_ON_PAPER,
        )
    if "tokenizer_id" in df.columns:
        tokenizers = sorted(set(df["tokenizer_id"].dropna().astype(str)))
        shown = Html(" ".join(f"<code>{html(i)}</code>" for i in tokenizers))
        pairs.append((f"{_plural(len(tokenizers), 'tokenizer')}", shown))
    return Html(definitions([(k, v) for k, v in pairs if v]) + listed)


def _reproduce(command: str, request: ReportRequest, asked: Request) -> Html:
    given = {key: getattr(asked, key) for key in index.ASKED}
    columns = "".join(f" --{key} {shlex.quote(name)}" for key, name in given.items() if name)
    flags = f"--bootstrap {request.bootstrap} --seed {request.seed}"
    lines = [f"tokenlaw results {command} --wide --format csv > table.csv"]
    if command == "TABLE":
        lines = ["# TABLE is the file that this report was made from"]
    lines += [
        f"tokenlaw frontier {command}{columns} {flags}",
        f"tokenlaw figures {command}{columns}",
        f"tokenlaw figures {command} --check",
        f"tokenlaw report {command}{columns}",
    ]
    text = "\n".join(lines)
    return Html(
        "<p>The same table gives the same page and the same pictures, byte for byte, with the "
        f"versions above.</p><pre>{html(text)}</pre>"
    )


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _hours_name(df: pd.DataFrame) -> str:
    """Return the heading of the hours, by the hardware of the runs."""
    names = (
        df["hardware"].dropna().astype(str) if "hardware" in df.columns else pd.Series(dtype=str)
    )
    on_cpu = {name.startswith("CPU") for name in names} or {False}
    return {(True,): "CPU-hours", (False,): "GPU-hours"}.get(tuple(on_cpu), "device hours")


def _unit(df: pd.DataFrame, column: str) -> str:
    if not df.attrs["ours"] and column in panels.UNITS_OF_OURS:
        return ""
    return {
        "val_loss": "nats/token",
        "val_bits_per_image": "bits/image",
        "psnr": "dB",
        "codebook_usage": "share",
        "flops_train": "own training",
    }.get(column, "")


def _cell(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return None
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def _python() -> str:
    return f"Python {platform.python_version()}"


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed as a package)"
