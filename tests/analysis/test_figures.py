"""Figures: ticks and labels, what the pictures say of their runs, when they are stale, same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import fixture_table
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from text_boxes import collisions, outside

from tokenlaw.analysis import published
from tokenlaw.analysis.drawing import index as figures_command
from tokenlaw.analysis.drawing import panels, style, vectors
from tokenlaw.analysis.figures import (
    ablation,
    crt_vs_baseline,
    distance_vs_flops,
    entropy_positions,
    loss_vs_flops,
    vcq_schedules,
)
from tokenlaw.trainer import parts

ROOT = Path(__file__).resolve().parents[2]
FEW = {"bootstrap": 20}
THREE = ("crt_vs_baseline", "distance_vs_flops", "loss_vs_flops")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick start's three figures of the made-up table, at low resolution."""
    folder = tmp_path_factory.mktemp("figures")
    results = figures_command.draw_all(fixture_table.table(), folder, THREE, options=FEW, dpi=60)
    assert [one.status for one in results] == ["drawn"] * 3
    return folder


# --------------------------------------------------------------------------------- axes and labels


@pytest.mark.parametrize(
    ("low", "high", "fewest"),
    [
        (2.11, 2.58, 3),
        (1.9, 4.7, 4),
        (5.0, 15.0, 4),
        (1.8e13, 7e15, 2),
        (1e15, 3e18, 3),
        (90, 110, 3),
    ],
)
def test_every_log_axis_has_labels(low: float, high: float, fewest: int) -> None:
    major, minor = style.log_ticks(low, high)
    assert len(major) >= fewest
    assert all(low <= tick <= high for tick in [*major, *minor])
    texts = style.numbers(major)
    assert len(set(texts)) == len(texts), "two ticks read the same"


def test_labels_keep_their_distance() -> None:
    major, _ = style.log_ticks(1.0, 1e6, gap=0.3)
    places = np.log10(major) / 6
    assert np.diff(places).min() >= 0.3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["loss_vs_flops", "distance_vs_flops", "crt_vs_baseline"])
def test_wide_bands_do_not_set_the_axis(name: str, seed: int) -> None:
    df = fixture_table.table()
    few = df[df["status"] == "done"].groupby("arm").sample(4, random_state=seed)
    noise = np.exp(np.random.default_rng(seed).normal(0.0, 0.15, len(few)))
    few = few.assign(val_loss=few["val_loss"] * noise, gfcd=few["gfcd"] * noise, gfcd_std=np.nan)
    picture = figures_command.make(few, name, options={"bootstrap": 200})
    table = picture.table
    assert table is not None
    table = table[table["panel"] != "gain"]
    bands = np.log10((table["y_high"] / table["y_low"].clip(lower=1e-12)).astype(float).max())
    for ax, (_, part) in zip(picture.figure.axes, table.groupby("panel", sort=False), strict=False):
        shown = part[part["layer"].isin(["run", "frontier", "fit straight"])]["y"].astype(float)
        low, high = ax.get_ylim()
        span = np.log10(shown.max() / shown.min())
        assert low < shown.min() and shown.max() < high
        assert np.log10(high / low) <= max(1.3 * span, style.LEAST_DECADES), f"bands: {bands:.1f}"


def test_a_log_axis_refuses_what_has_no_logarithm() -> None:
    with pytest.raises(ValueError, match="positive"):
        style.log_ticks(0.0, 1.0)


def test_numbers_read_as_people_write_them() -> None:
    assert style.numbers([3.0, 3.5, 4.0]) == ["3.0", "3.5", "4.0"]
    assert style.numbers([0.1, 1.0, 10.0]) == ["0.1", "1", "10"]
    assert style.number(2e15) == "2\u00d710\u00b9\u2075"
    assert style.number(1e-7) == "10\u207b\u2077"
    assert [style.count(n) for n in (576, 1024, 16384, 131072, 12500, 1281167, 3.1e9)] == [
        *("576", "1k", "16k", "131k", "12.5k", "1.28M", "3.1B")
    ]


def test_arms_keep_their_colours_whatever_the_order_of_rows() -> None:
    assert style.arm_order(["vq-16k", "crt", "vq-2k", "vq"]) == ["vq", "crt", "vq-2k", "vq-16k"]
    assert style.arm_looks(["crt", "vq"]) == style.arm_looks(["vq", "crt", "vq"])
    looks = style.arm_looks(f"arm{i}" for i in range(8))
    assert len({look.color for look in looks.values()}) == 8
    assert len({look.marker for look in looks.values()}) == 8


# ----------------------------------------------------------------------------------- what is shown


def test_the_picture_is_its_csv(drawn: Path) -> None:
    df = fixture_table.table()
    table = pd.read_csv(drawn / "distance_vs_flops.csv")
    runs = table[table["layer"] == "run"].set_index("run_id")
    done = df[df["status"] == "done"].set_index("run_id")
    assert set(runs.index) == set(done.index)
    done = done.loc[runs.index]
    assert np.allclose(runs["y"], done["gfcd"])
    assert np.allclose(runs["y_high"] - runs["y"], done["gfcd_std"], rtol=1e-6)
    assert np.allclose(runs["y"] - runs["y_low"], done["gfcd_std"], rtol=1e-6)
    assert set(table["layer"]) == {"run", "frontier", "fit straight", "fit floor"}


@pytest.mark.parametrize(
    ("forms", "words"),
    [
        (["straight", "floor"], ["power law", "95% band", "with floor"]),
        (["straight"], ["power law", "95% band"]),
        (["floor"], ["power law with floor", "95% band"]),
    ],
)
def test_the_first_law_that_is_drawn_has_its_band(forms: list[str], words: list[str]) -> None:
    df = fixture_table.table()
    picture = figures_command.make(df, "loss_vs_flops", options=FEW | {"forms": forms})
    shown = [text.get_text() for text in picture.figure.texts]
    kinds = {"power law", "power law with floor", "with floor", "95% band"}
    assert [text for text in shown if text in kinds] == words
    bands = picture.figure.axes[0].collections
    assert len(bands) == df["arm"].nunique()


def test_frontier_points_are_runs_that_nothing_beats(drawn: Path) -> None:
    table = pd.read_csv(drawn / "loss_vs_flops.csv")
    for arm, mine in table.groupby("group"):
        runs, front = mine[mine["layer"] == "run"], mine[mine["layer"] == "frontier"]
        runs = np.exp(np.log(runs.set_index("x")["y"]).groupby("x").mean()).reset_index()
        assert len(front) > 2, arm  # of configurations: the mean of their seeds
        for _, point in front.iterrows():
            better = (runs["x"] <= point["x"]) & (runs["y"] < point["y"] * (1 - 1e-9))
            assert not better.any()


def test_diverged_runs_are_counted_and_not_drawn() -> None:
    df = fixture_table.table()
    lost = df.loc[df["status"] == "diverged", "run_id"].item()
    picture = figures_command.make(df, "loss_vs_flops", options=FEW)
    assert lost not in picture.run_ids
    assert picture.table is not None
    assert "left out: 1 (status is diverged)" in picture.table.attrs["note"]


def test_losses_per_token_of_different_codebooks_share_no_axis() -> None:
    df = fixture_table.table("codebook")
    with pytest.raises(ValueError, match="val_bits_per_image"):
        loss_vs_flops.data(df, loss_vs_flops.Config(y="val_loss", bootstrap=0))
    table = loss_vs_flops.data(df, loss_vs_flops.Config(bootstrap=0))
    assert "bits/image" in table.attrs["axes"][""][1]


def test_distances_by_two_networks_share_no_axis() -> None:
    df = fixture_table.table()
    df.loc[df["arm"] == "crt", "gfcd_extractor"] = "digits-clf-ffffffff"
    with pytest.raises(ValueError, match="several networks"):
        distance_vs_flops.data(df)
    both = fixture_table.table().assign(gfid=9.0)
    assert panels.distance_column(both, "figure") == "gfid"
    assert panels.distance_column(both, "figure", "gfcd") == "gfcd"


def test_the_gain_of_an_arm_over_a_worse_one_is_above_one() -> None:
    df = fixture_table.table()
    table = crt_vs_baseline.data(df, crt_vs_baseline.Config(bootstrap=0))
    gain = table[table["panel"] == "gain"]
    assert set(gain["group"]) == {"gfcd"}  # losses of two tokenizers' codes give no gain
    inside = gain[gain["layer"] == "straight"]
    assert len(inside) and (inside["y"] > 1.1).all()
    with pytest.raises(ValueError, match="two arms"):
        crt_vs_baseline.data(df[df["arm"] == "vq"], crt_vs_baseline.Config(bootstrap=0))


def test_a_gain_far_beyond_the_data_does_not_stretch_its_axis() -> None:
    df = fixture_table.table()
    df.loc[df["arm"] == "crt", "gfcd"] *= 0.4  # what vq would need is astronomic
    picture = figures_command.make(df, "crt_vs_baseline", options={"bootstrap": 0})
    gain = picture.figure.axes[-1]
    low, high = gain.get_ylim()
    assert low >= 0.01 and high <= 100
    assert "gFCD: gain above the axis" in [text.get_text() for text in gain.texts]


def test_settings_that_differ_by_too_little_are_no_sweep() -> None:
    df = fixture_table.table("codebook")
    df["codebook_size"] = df["codebook_size"].map({1024: 1024, 16384: 1100, 131072: 1200})
    with pytest.raises(ValueError, match="a factor of 1.9 apart; the table has 1k, 1.1k, 1.2k"):
        figures_command.make(df, "codebook_size", options=FEW)


def test_an_error_from_below_says_which_figure_it_stopped() -> None:
    def nothing(identity: str, name: str) -> None:
        raise ValueError(f"run_id: {identity!r} has no {name}")

    with pytest.raises(ValueError, match="^conditional_entropy: run_id"):
        figures_command.make(fixture_table.table(), "conditional_entropy", vectors=nothing)


def test_the_reference_of_the_gain_can_be_chosen() -> None:
    config = crt_vs_baseline.Config(bootstrap=0, arm="vq", reference="crt")
    table = crt_vs_baseline.data(fixture_table.table(), config)
    gain = table[(table["panel"] == "gain") & (table["layer"] == "straight")]
    assert (gain.loc[gain["group"] == "gfcd", "y"] < 1).all()


def test_every_run_can_be_labelled() -> None:
    df = fixture_table.table()
    config = loss_vs_flops.Config(bootstrap=0, label_points=True)
    picture = figures_command.make(df, "loss_vs_flops", config=config)
    (ax,) = picture.figure.axes
    texts = [text.get_text() for text in ax.texts]
    assert len(texts) == (df["status"] == "done").sum()
    assert "s 500" in texts
    assert not outside(picture.figure)
    assert len(collisions(picture.figure)) <= 2, "47 labels in one panel are a crowd, not a heap"


def test_a_table_without_ids_arms_or_status_can_be_drawn() -> None:
    df = fixture_table.table()
    bare = df.loc[df["status"] == "done", ["flops_train", "val_loss"]]
    picture = figures_command.make(bare, "loss_vs_flops", options=FEW)
    assert len(picture.run_ids) == len(bare)


def test_an_axis_may_have_another_name() -> None:
    df = fixture_table.table("ablation").rename(columns={"crt_layers": "layers"})
    df = df.rename(columns={"crt_weight": "axis_lambda"})
    assert figures_command.make(df, "ablation").run_ids


@pytest.mark.parametrize(
    ("mode", "label"), [("train_subset", "gFCD (clf) to training images"), ("oracle", "gFCD (clf)")]
)
def test_the_scales_that_evaluations_tried_are_a_sweep(
    mode: str, label: str, tmp_path: Path
) -> None:
    runs = [("a", {1.0: 9.0, 1.5: 4.0, 2.0: 6.0}), ("b", {1.0: 8.0, 1.5: 5.0, 2.0: 3.0})]
    df = pd.DataFrame(
        [
            {"arm": name, "run_id": name, "evaluation_id": f"of-{name}", "status": "done"}
            | {"gfcd": 99.0, "gfcd_std": 7.0, "gfcd_extractor": "clf", "precision": 0.1}
            for name in ("a", "b", "told")
        ]
    )
    for name, tried in runs:
        (tmp_path / f"of-{name}").mkdir()
        content = {
            "cfg_selection": mode,
            "tried": [
                {"cfg_scale": scale, "distance": distance, "values": []}
                for scale, distance in tried.items()
            ],
        }
        (tmp_path / f"of-{name}" / "cfg_selection.json").write_text(json.dumps(content))
    picture = figures_command.make(df, "cfg_sweep", vectors=vectors.from_folder(tmp_path))
    table = picture.table
    assert table is not None and set(table["panel"]) == {"distance"}
    for name, tried in runs:
        line = table[table["group"] == name].set_index("x")["y"]
        assert line.to_dict() == tried
    assert table["y_low"].isna().all(), "the spread is that of another score"
    assert table.attrs["axes"]["distance"][1] == label
    assert picture.run_ids == ("a", "b")
    with pytest.raises(ValueError, match="no column cfg_scale, and no evaluation tried"):
        figures_command.make(df, "cfg_sweep")


def test_the_schedule_table_stands_beside_the_papers() -> None:
    # VCQ, schedule table; t* at 256 tokens and 1.28M images is ours (docs/vcq.md).
    expected = {
        "constant": (16384, 16384.0, 0.05469, 2),
        "cosine": (16384, 5963.68, 0.04432, 9),
        "cosine-large": (11264, 4100.42, 0.04225, 9),
        "linear": (16384, 8193.0, 0.04896, 4),
        "power": (16384, 4696.33, 0.04106, 12),
    }
    df = pd.DataFrame(
        [
            {"arm": arm, "run_id": arm, "status": "done", "schedule": arm.split("-")[0]}
            | {"codebook_size": k_max, "tokens_per_image": 256}
            for arm, (k_max, *_) in expected.items()
        ]
    )
    table = vcq_schedules.data(df)
    summary = table[table["layer"] == "summary"].set_index("group")
    for arm, (k_max, mean, bpp, star) in expected.items():
        row = summary.loc[arm]
        assert row["k_max"] == k_max and row["t_star"] == star
        assert row["k_mean"] == pytest.approx(mean, abs=0.006)
        assert row["bpp"] == pytest.approx(bpp, abs=6e-6)
    assert "cosine: the paper prints K mean 5964, 0.044 BPP, t* 5" in table.attrs["note"]
    assert "cosine-large: the paper prints K mean 4100" in table.attrs["note"]


def test_an_ablation_moves_one_setting_at_a_time() -> None:
    df = fixture_table.table("ablation")
    table = ablation.data(figures_command.prepare(df))
    one = table[table["group"] == "one size"]
    layers = one[one["panel"] == "crt_layers/generation"]
    weights = one[one["panel"] == "crt_weight/generation"]
    assert sorted(layers["x"].unique()) == [0, 2, 4, 6]
    assert sorted(weights["x"].unique()) == [0.5, 1, 2, 4, 8, 16]
    means = table[table["group"] == "mean over sizes"]
    means = means[means["panel"] == "crt_layers/generation"]
    at_two = df[(df["crt_layers"] == 2) & (df["crt_weight"] == 4)]
    assert means.loc[means["x"] == 2, "y"].item() == pytest.approx(at_two["gfcd"].mean())


def test_corrected_entropies_add_and_never_exceed_the_codebook() -> None:
    df = figures_command.prepare(fixture_table.table("codebook"))
    get = fixture_table.vectors(df, images=400)
    table = entropy_positions.data(df, vectors=get)
    entropy = table[table["panel"] == "entropy"]
    assert entropy.loc[entropy["group"] == "vq-1k", "y"].max() <= 10.0
    for codes, mine in entropy.groupby("run_id"):
        assert (mine["y"].to_numpy() > get(str(codes), "entropy.npz")["entropy_bits"]).all()


# ------------------------------------------------------------------------------ files and metadata


def test_pictures_carry_their_runs_and_data(drawn: Path) -> None:
    index = json.loads((drawn / "figures.json").read_text())
    df = fixture_table.table()
    for name in THREE:
        entry = index["figures"][name]
        with Image.open(drawn / f"{name}.png") as image:
            assert image.text["tokenlaw:data"] == entry["data_hash"]  # type: ignore[attr-defined]
            runs = image.text["tokenlaw:runs"].split(",")  # type: ignore[attr-defined]
        assert runs == entry["run_ids"]
        assert set(runs) <= set(df["run_id"])
        pdf = (drawn / f"{name}.pdf").read_bytes()
        assert entry["data_hash"].encode() in pdf
        assert runs[0].encode() in pdf
        assert b"/FontFile2" in pdf, "the fonts are not embedded"
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf


def test_the_same_table_gives_the_same_files_in_another_process(
    drawn: Path, tmp_path: Path
) -> None:
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests/analysis']\n"
        "import fixture_table; from tokenlaw.analysis.drawing import index as figures_command\n"
        "df = fixture_table.table().sample(frac=1.0, random_state=1)\n"
        f"figures_command.draw_all(df, sys.argv[2], {THREE[2:]!r}, options={FEW!r}, dpi=60)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(ROOT), str(tmp_path)], check=True, timeout=300
    )
    for path in sorted(drawn.glob("loss_vs_flops.*")):
        ours = hashlib.sha256(path.read_bytes()).hexdigest()
        assert hashlib.sha256((tmp_path / path.name).read_bytes()).hexdigest() == ours, path.name


def test_svg_is_the_same_twice_and_bears_no_date() -> None:
    picture = figures_command.make(fixture_table.table(), "distance_vs_loss")
    first = figures_command.image(picture, "svg")
    assert first == figures_command.image(picture, "svg")
    assert b"dc:date" not in first


def test_figures_a_table_does_not_allow_are_reported_in_one_line(tmp_path: Path) -> None:
    names = ("loss_vs_flops", "tokens_per_image", "conditional_entropy", "system_table")
    df = fixture_table.table()
    with pytest.raises(ValueError, match="tokens_per_image"):
        figures_command.draw_all(df, tmp_path, names, options=FEW, dpi=50)
    with pytest.raises(ValueError, match="did you mean 'loss_vs_flops'"):
        figures_command.draw_all(df, tmp_path, ("loss_vs_flop",))
    for name in names[1:]:
        with pytest.raises(ValueError) as caught:
            figures_command.make(df, name, options=FEW)
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)


def test_options_are_checked_by_name_and_type(tmp_path: Path) -> None:
    df = fixture_table.table()
    draw = figures_command.draw_all
    with pytest.raises(ValueError, match="'bootstrp' .did you mean 'bootstrap'"):
        draw(df, tmp_path, THREE, options={"bootstrp": 3})
    with pytest.raises(ValueError, match="loss_vs_flops: bootstrap: 'many'"):
        figures_command.make(df, "loss_vs_flops", options={"bootstrap": "many"})
    with pytest.raises(ValueError, match="envelope"):
        figures_command.make(df, "loss_vs_flops", options=FEW | {"envelope": "nothing"})
    picture = figures_command.make(
        df, "loss_vs_flops", options=FEW | {"forms": "straight", "envelope": "binned"}
    )
    assert picture.config["forms"] == ["straight"]
    assert picture.table is not None and "fit floor" not in set(picture.table["layer"])
    assert not list(tmp_path.glob("*.png"))


def test_all_figures_are_tried_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "names", lambda folder: ("distance_vs_loss", "system_table"))
    results = figures_command.draw_all(fixture_table.table(), tmp_path, dpi=50)
    assert [one.status for one in results] == ["drawn", "not drawn"]
    assert results[1].reason == "system_table: the table has no column gfid"
    index = json.loads((tmp_path / "figures.json").read_text())
    assert list(index["not_drawn"]) == ["system_table"]
    assert not (tmp_path / "system_table.png").exists()


# --------------------------------------------------------------------------------------- staleness


def reasons(df: pd.DataFrame, folder: Path) -> dict[str, str]:
    return {one.name: "; ".join(one.reasons) for one in figures_command.check(df, folder)}


def test_progress_tells_of_what_is_drawn_only(tmp_path: Path) -> None:
    told: list[str] = []
    df = fixture_table.table("cfg")
    found = figures_command.draw_all(
        df, tmp_path, options={"bootstrap": 0}, dpi=30, progress=told.append
    )
    assert told == [one.name for one in found if one.status == "drawn"]
    assert 0 < len(told) < len(found)


def test_nothing_is_stale_right_after_drawing(drawn: Path) -> None:
    df = fixture_table.table()
    assert reasons(df, drawn) == {}
    assert reasons(df.sample(frac=1.0, random_state=2), drawn) == {}
    exported = pd.read_csv(pd.io.common.StringIO(df.to_csv(index=False)))
    assert reasons(exported, drawn) == {}


def test_a_changed_new_or_lost_run_makes_figures_stale(drawn: Path) -> None:
    df = fixture_table.table()
    changed = df.copy()
    changed.loc[0, "gfcd"] += 0.5
    found = reasons(changed, drawn)
    assert set(found) == {"crt_vs_baseline", "distance_vs_flops"}, "the loss did not change"
    assert df["run_id"][0] in found["distance_vs_flops"]
    assert found["distance_vs_flops"].endswith("changed")

    new = pd.concat([df, df.iloc[[1]].assign(run_id="fedcba9876543210")])
    assert "1 run (fedcba9876543210) new" in reasons(new, drawn)["loss_vs_flops"]
    assert "gone" in reasons(df.drop(index=4), drawn)["loss_vs_flops"]
    assert "no column val_loss" in reasons(df.drop(columns="val_loss"), drawn)["loss_vs_flops"]


def test_a_lost_or_edited_file_or_new_code_makes_figures_stale(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in drawn.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "loss_vs_flops.pdf").unlink()
    (tmp_path / "distance_vs_flops.csv").write_text("edited")
    df = fixture_table.table()
    assert reasons(df, tmp_path) == {
        "loss_vs_flops": "loss_vs_flops.pdf is missing",
        "distance_vs_flops": "distance_vs_flops.csv was changed by another hand",
    }
    monkeypatch.setattr(figures_command, "code_hash", lambda name: "0" * 16)
    assert "the code that draws it has changed" in reasons(df, drawn)["crt_vs_baseline"]
    with pytest.raises(ValueError, match="draw them first"):
        figures_command.check(df, tmp_path / "nowhere")


# ------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize("name", published.names())
def test_published_numbers_have_a_source(name: str) -> None:
    table = published.read(name)
    assert {"source", "doubt"} <= set(table.columns)
    assert table["source"].notna().all()
    assert all(re.search(r"arXiv|README|docs/|paper", source) for source in table["source"])
    text = (ROOT / "analysis" / "published" / f"{name}.csv").read_bytes()
    assert text.isascii()


# Rows and checksum of each table's values. A value that changes is to be read in its source again.
VALUES = {
    "crt_codebook": (2, 1090450601),
    "crt_flops_axis": (9, 1047100385),
    "crt_sizes": (7, 112763757),
    "crt_table2": (10, 1678690017),
    "crt_table3": (18, 1519417687),
    "gigatok": (5, 512231),
    "ibq_ablation": (20, 3399170743),
    "llamagen_tokens": (3, 1646462422),
    "system": (36, 1915397451),
    "vcq_results": (6, 3707384923),
    "vcq_schedules": (6, 2052734676),
}


def test_published_values_are_those_that_were_read() -> None:
    values = {name: published.read(name) for name in published.names()}
    plain = {name: table.drop(columns=["source", "doubt"]) for name, table in values.items()}
    assert {
        name: (len(table), zlib.crc32(table.to_csv(index=False).encode()))
        for name, table in plain.items()
    } == VALUES


def test_what_is_doubtful_about_the_published_numbers_is_said() -> None:
    axis = published.read("crt_flops_axis")
    assert np.allclose(axis["flops_paper_775M"], 6.0 * 774699520 * axis["images"], rtol=1e-3)
    assert axis["doubt"].str.contains("256 tokens").all()
    schedules = published.read("vcq_schedules").set_index(["schedule", "k_max"])
    assert "31 to 50" in schedules.loc[("cosine", 16384), "doubt"]
    system = published.read("system").set_index("generator")
    assert system.loc["LlamaGen-B", "doubt"].str.contains("swap").all()
    with pytest.raises(ValueError, match="crt_table2"):
        published.read("nothing")


def test_published_tables_hold_every_row_of_the_papers() -> None:
    cells = published.read("crt_table3")
    assert cells.groupby(["category", "tokenizer"])["size"].agg(list).map(
        tuple
    ).unique().tolist() == [("111M", "340M", "740M")]
    assert len(cells) == 18 and cells.drop(columns="doubt").notna().all(axis=None)
    ablation = published.read("ibq_ablation")
    ibq = ablation[(ablation["quantizer"] == "ibq") & ~ablation["source"].str.contains("Table 9")]
    assert ibq[["rfid", "lpips", "usage"]].notna().all(axis=None)
    by_blocks = ibq[ibq["row"].str.startswith("residual blocks")].set_index("tokenizer_blocks")
    assert by_blocks["rfid"].to_dict() == {1: 1.80, 2: 1.55, 4: 1.37}
    plain = published.read("vcq_results").set_index("tokenizer")
    assert plain.loc["cosine 16384 with plain cosine guidance", "gfid"] == 7.61
