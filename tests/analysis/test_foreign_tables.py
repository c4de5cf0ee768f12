"""Tables from elsewhere through fit, frontier, figures and report: columns, captions, bad input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import fixture_table
import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis.direction import resolve
from tokenlaw.analysis.drawing import index
from tokenlaw.analysis.drawing.panels import bar_words
from tokenlaw.analysis.report import sections
from tokenlaw.analysis.request import ReportRequest, Request
from tokenlaw.sweeps.cli.app import main

FEW = {"bootstrap": 20}
COLUMNS = ("--x", "budget used", "--y", "Quality", "--n", "size", "--group", "model")


def foreign(num: int = 6) -> pd.DataFrame:
    compute = np.geomspace(1e18, 1e21, num)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, 2 * num))
    return pd.DataFrame(
        {
            "budget used": [f"{value / 1e9:g}B" for value in compute] * 2,
            "size": ["125M"] * 2 * num,
            "Quality": np.tile(1.7 + 3 * (compute / 1e18) ** -0.2, 2) * noise,
            "model": np.repeat(["ours", "theirs"], num),
            "State": ["finished"] * (2 * num - 1) + ["crashed"],
        }
    )


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs.csv"
    foreign().to_csv(path, index=False, sep=";")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([*map(str, arguments), "--home", "home"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_four_verbs_take_the_same_columns(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*COLUMNS, "--where", "Quality / 2 < 2.2 and size >= 1e6", "--direction", "lower")
    code, out, _ = run(capsys, "fit", table, *flags, "--bootstrap", 0, "--json")
    answer = json.loads(out)
    assert code == 0 and list(answer["groups"]) == ["ours", "theirs"] and answer["n"] < 11
    code, out, _ = run(capsys, "frontier", table, *flags, "--bootstrap", 0, "--json")
    assert code == 0 and list(json.loads(out)["frontiers"]) == ["ours", "theirs"]
    code, out, _ = run(capsys, "figures", table, *flags, "--bootstrap", 20, "--out", "pictures")
    assert code == 0 and "loss_vs_flops: loss_vs_flops.png" in out
    assert "crt_vs_baseline: crt_vs_baseline.png" in out
    code, out, _ = run(capsys, "figures", table, "--check", "--out", "pictures")
    assert (code, out) == (0, "pictures: 0 stale\n")
    code, out, _ = run(capsys, "report", table, *flags, "--bootstrap", 20, "--out", "page.html")
    page = Path("page.html").read_text()
    assert code == 0 and "Quality against budget used" in page
    assert "--x &#x27;budget used&#x27;" in page and "--group model" in page


def test_captions_say_what_the_table_says() -> None:
    asked = Request(x="budget used", y="Quality", n="size", group="model")
    picture = index.make(foreign(), "loss_vs_flops", options=FEW, asked=asked)
    assert picture.title == "Quality against budget used"
    assert picture.table is not None
    note, labels = picture.table.attrs["note"], picture.table.attrs["axes"][""]
    assert labels[:2] == ("budget used", "Quality")
    assert note.startswith("11 rows; left out: 1 (status is crashed);")
    kept = index.make(
        foreign(), "loss_vs_flops", options=FEW, asked=Request(**{"where": "Quality < 4"}, **SHORT)
    )
    assert kept.table is not None and kept.table.attrs["note"].endswith("Rows kept: Quality < 4.")


SHORT = {"x": "budget used", "y": "Quality"}


def test_units_and_rules_of_a_study_are_said_of_a_study_alone() -> None:
    study = fixture_table.table()
    bare = study[study["status"] == "done"][["arm", "flops_train", "val_loss"]]
    for frame, labels in (
        (bare, ("train FLOPs", "validation loss")),
        (study, ("train FLOPs (6ND over tokens + attention)", "validation loss (nats/token)")),
    ):
        table = index.make(frame, "loss_vs_flops", options=FEW).table
        assert table is not None and table.attrs["axes"][""][:2] == labels


@pytest.mark.parametrize(
    ("seeds", "words"),
    [(3, "standard deviation over sample seeds"), (1, ""), (None, "gfcd_std")],
)
def test_error_bars_are_called_what_they_are(seeds: int | None, words: str) -> None:
    frame = fixture_table.table().assign(gfcd_seeds=seeds)
    frame = frame.drop(columns="gfcd_seeds") if seeds is None else frame
    assert bar_words(frame, "gfcd") == words
    table = index.make(frame, "distance_vs_flops", options=FEW).table
    assert table is not None
    note = table.attrs["note"]
    assert (f"error bars: {words}" in note) if words else ("error bars" not in note)
    assert table["y_low"].notna().any() or not words


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        (["NVIDIA H100"], "GPU-hours"),
        (["CPU Intel"], "CPU-hours"),
        (["CPU Intel", "NVIDIA H100"], "device hours"),
        ([None], "GPU-hours"),
    ],
)
def test_hours_are_those_of_the_hardware(
    hardware: list[str | None], words: str, tmp_path: Path
) -> None:
    frame = fixture_table.table()
    frame = frame.assign(hardware=np.resize(np.array(hardware, dtype=object), len(frame)))
    request = ReportRequest(only=("loss_vs_flops",), bootstrap=0, zoom=False)
    page = sections.write(frame, tmp_path / "page.html", request).read_text()
    assert f">{words}<" in page.split("All ")[0]


def test_a_report_without_a_figure_is_small_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_csv("odd.csv", index=False)
    code, _, _ = run(capsys, "report", "odd.csv")
    page = Path("odd-report.html").read_text()
    assert code == 0 and len(page) < 60_000
    assert "No figure can be drawn; --x --y --n --d --group name the columns" in page
    assert "flops_train (--x names it), val_loss (--y names it)" in page
    assert "No fit was made." in page and "every row of the table entered" not in page


def test_nothing_drawn_is_exit_code_1(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "figures", table)
    assert code == 1 and "loss_vs_flops: not drawn: the table has no column flops_train" in out
    assert [line for line in err.splitlines() if "drawing" not in line] == [
        "error: no figure can be drawn from this table; see above"
    ]


# name -> the table; arguments; words of the error
BAD = {
    "no finite row": ({"Quality": np.nan}, COLUMNS, "has no finite value"),
    "one run": ({"rows": 1}, COLUMNS, "1 rows"),
    "one budget": ({"budget used": 1e18}, COLUMNS, ""),
    "no state": ({"State": "crashed"}, COLUMNS, "State is crashed"),
    "column": ({}, (*COLUMNS, "--y", "quality"), "no column 'quality' (did you mean 'Quality'?)"),
    "unit": ({"budget used": "3 parsecs"}, COLUMNS, "holds '3 parsecs' in line 2"),
    "where": ({}, (*COLUMNS, "--where", "Quality +"), "where: 'Quality +' is not an expression"),
    "nothing left": ({}, (*COLUMNS, "--where", "Quality > 99"), "no row is left after the filters"),
    "objective": ({}, (*COLUMNS, "--loss", "l3"), "--loss: 'l3' is not allowed"),
    "direction": ({}, (*COLUMNS, "--direction", "up"), "--direction: 'up' is not allowed"),
    "draws": ({}, (*COLUMNS, "--bootstrap", "-1"), "--bootstrap: -1 is not allowed"),
    "group": ({}, (*COLUMNS, "--group", "modle"), "--group: no column 'modle'"),
    "points": ({}, (*COLUMNS, "--predict", "nowhere.csv"), "'nowhere.csv' is not a file"),
    "other group": (
        {},
        (*COLUMNS, "--predict", "other.csv"),
        "it has: ours, theirs",
    ),
}


@pytest.mark.parametrize("verb", ["fit", "frontier"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    changes, arguments, words = BAD[name]
    if verb == "frontier" and "--predict" in arguments:
        arguments, words = (*COLUMNS, "--envelope", "none"), "--envelope: 'none' is not known"
    monkeypatch.chdir(tmp_path)
    changes = dict(changes)
    frame = foreign().head(changes.pop("rows", 12)).assign(**changes)
    frame.to_csv("runs.csv", index=False)
    pd.DataFrame({"budget used": [1e19], "model": ["nobody"]}).to_csv("other.csv", index=False)
    code, out, err = run(capsys, verb, "runs.csv", *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert words in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "runs.csv"]


@pytest.mark.parametrize(
    ("column", "better"),
    [
        *(
            (name, "higher")
            for name in ("human_pref", "aesthetic", "HPSv2", "dino_sim", "cosine_sim")
        ),
        *(
            (name, "higher")
            for name in ("linear_probe", "util", "success", "CLIP score", "hit_rate")
        ),
        *((name, "lower") for name in ("cosine_distance", "sim_loss", "miss_rate", "probe error")),
    ],
)
def test_words_of_metrics_from_elsewhere(column: str, better: str) -> None:
    found = resolve(column)
    assert found.better == better and not found.assumed


HOSTILE = {
    "one run": lambda frame: frame.head(1),
    "one budget": lambda frame: frame.assign(flops_train=1e18),
    "arms without a name": lambda frame: frame.assign(arm=[None, *frame["arm"][1:]]),
    "names with dollars": lambda frame: frame.assign(arm=frame["arm"] + "$_{"),
    "huge": lambda frame: frame.assign(val_loss=frame["val_loss"] * 1e300),
    "tiny": lambda frame: frame.assign(val_loss=frame["val_loss"] * 1e-300),
    "infinite": lambda frame: frame.assign(val_loss=[np.inf, *frame["val_loss"][1:]]),
    "noise": lambda frame: frame.assign(
        val_loss=frame["val_loss"] * np.exp(np.random.default_rng(1).normal(0, 8, len(frame)))
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tables_are_drawn_without_a_warning(name: str, tmp_path: Path) -> None:
    study = fixture_table.table()
    frame = study[study["status"] == "done"][["arm", "flops_train", "val_loss"]].head(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = index.draw_all(HOSTILE[name](frame), tmp_path, ["loss_vs_flops"], options=FEW)
    assert [one.status for one in drawn] == ["drawn"]


def test_bands_of_a_gain_do_not_set_its_axis() -> None:
    limits = {}
    for draws in (0, 60):
        options = {"bootstrap": draws, "arm": "crt", "reference": "vq"}
        frame = fixture_table.table()
        frame = frame[frame["arm"].isin(["vq", "crt"]) & (frame["size"] != "s")]
        noise = np.exp(np.random.default_rng(3).normal(0, 0.03, len(frame)))
        frame = frame.assign(val_loss=frame["val_loss"] * noise).drop(columns=["gfcd"])
        limits[draws] = index.make(frame, "crt_vs_baseline", options=options).figure.axes[-1]
    assert limits[0].get_ylim() == pytest.approx(limits[60].get_ylim())
