"""The tables for pandas."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from made_home import finish, make_run, make_study, planned, value, write_plan

from tokenlaw.results_db import durable, read, strict_json


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    make_study(folder)
    return folder


def one(table, **conditions):
    for name, wanted in conditions.items():
        table = table[table[name] == wanted]
    assert len(table) == 1, table
    return table.iloc[0]


def test_long_has_the_documented_columns_and_dtypes(home):
    table = read.endpoints("toy", home=home)
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {
        name: dtype for name, (dtype, _) in read.LONG_COLUMNS.items()
    }
    assert list(table.columns) == list(read.LONG_COLUMNS)
    empty = read.endpoints("toy", home=home).iloc[:0]
    assert list(empty.dtypes) == list(table.dtypes)


def test_long_has_one_row_for_each_value(home):
    table = read.endpoints("toy", home=home)
    row = one(table, run_id="evg-vq-S-main", seed=1)
    assert (row["metric"], row["value"], row["num_samples"]) == ("gfcd", 4.0, 500)
    assert (row["extractor"], row["floor"], row["arm"]) == ("digits-clf-1", 0.02, "vq")
    assert row["axes"] == {"size": "S", "iterations": 100} and row["subject_id"] == "gen-vq-S"
    assert row["provenance"]["seed"] == 1 and bool(row["primary"]) and row["attempts"] == 1
    assert not one(table, run_id="evg-vq-S-extra", seed=1)["primary"]
    assert one(table, run_id="tok-vq")["params"] == 1000
    assert set(table["dataset"]) == {"digits"}  # generators have their tokenizer's
    assert len(table) == 20 + 2


def test_a_diverged_run_is_there_without_values(home):
    row = one(read.endpoints("toy", home=home), run_id="gen-vq-M")
    assert (row["status"], row["reason"], row["metric"]) == ("diverged", "diverged at step 7", None)
    assert math.isnan(row["value"])


def test_wide_has_a_row_for_each_generator_and_joins_what_it_shares(home):
    table = read.endpoints("toy", wide=True, home=home)
    for name, (dtype, _) in read.WIDE_COLUMNS.items():
        assert str(table[name].dtype) == dtype, name
    assert list(table.columns[: len(read.WIDE_COLUMNS)]) == list(read.WIDE_COLUMNS)
    assert len(table) == 6 and table.columns.is_unique
    row = one(table, run_id="gen-vq-S")
    assert (row["arm"], row["size"], row["iterations"], row["status"]) == ("vq", "S", 100, "done")
    assert (row["tokenizer_id"], row["codes_id"]) == ("tok-vq", "codes-vq")
    assert row["val_loss"] == 2.5 and row["flops_train"] == 4e9 and row["dataset"] == "digits"
    assert row["evaluation_id"] == "evg-vq-S-main"
    # The primary evaluation's mean and spread over two sample seeds, not the other's.
    assert (row["gfcd"], row["gfcd_seeds"]) == (3.5, 2)
    assert row["gfcd_std"] == pytest.approx(math.sqrt(0.5))
    assert (row["gfcd_extractor"], row["gfcd_num_samples"]) == ("digits-clf-1", 500)
    assert row["gfcd_floor"] == 0.02
    assert (row["gfcd_extractor_accuracy"], row["gfcd_caution"]) == (0.9, "too few")
    assert (row["psnr"], row["rfcd"], row["rfcd_floor"]) == (20.0, 0.5, 0.01)
    assert (row["codebook_usage"], row["code_entropy"]) == (0.9, 5.5)
    assert (row["codebook_size"], row["tokens_per_image"]) == (64, 16)
    assert (row["tokenizer_params"], row["tokenizer_val_reconstruction"]) == (1000, 0.1)
    assert one(table, run_id="gen-crt-S")["psnr"] == 19.0


def test_names_of_sizes_are_in_the_order_of_their_generators(tmp_path):
    params = {"S": 10, "M": 200, "L": 3000}
    runs = []
    for size in ("L", "M", "S"):
        finish(make_run(tmp_path, "generator", f"g-{size}"), [], columns={"params": params[size]})
        runs.append(planned(f"g-{size}", "generator", [("vq", {"size": size, "seed": 0})]))
    write_plan(tmp_path, "sizes", runs)
    table = read.endpoints("sizes", wide=True, home=tmp_path)
    assert list(table["size"]) == ["S", "M", "L"]


def test_wide_keeps_diverged_and_waiting_generators(home):
    table = read.endpoints("toy", wide=True, home=home)
    assert sorted(table["status"]) == ["diverged"] * 2 + ["done"] * 2 + ["pending"] * 2
    diverged = one(table, run_id="gen-vq-M")
    assert diverged["reason"] == "diverged at step 7" and math.isnan(diverged["val_loss"])
    assert diverged["psnr"] == 20.0
    waiting = one(table, run_id="gen-vq-L")
    assert waiting["flops_train"] == 5e9 and waiting["params"] == 7  # the plan's
    assert waiting["attempts"] == 0 and math.isnan(waiting["gpu_hours"])


def test_tables_of_all_studies_and_of_none(home, tmp_path):
    assert read.studies(home) == ["toy"]
    assert len(read.endpoints(home=home)) == len(read.endpoints("toy", home=home))
    with pytest.raises(ValueError, match="study: 'tyo' has no plan in .*, known studies: toy"):
        read.endpoints("tyo", home=home)
    for wide in (False, True):
        empty = read.endpoints(wide=wide, home=tmp_path)
        documented = read.WIDE_COLUMNS if wide else read.LONG_COLUMNS
        assert len(empty) == 0 and list(empty.columns) == list(documented)
    assert read.studies(tmp_path) == []


def test_a_run_of_two_studies_and_one_of_none(tmp_path):
    generator = make_run(tmp_path, "generator", "g")
    finish(generator, [value("val_loss", 1.0)])
    finish(make_run(tmp_path, "generator", "by-hand"), [value("val_loss", 2.0)])
    trunk = make_run(tmp_path, "generator", "segment")
    finish(trunk, [value("val_loss", 3.0)])
    branch = make_run(tmp_path, "generator", "branch", parents={"trunk": "segment"})
    finish(branch, [value("val_loss", 4.0)])
    for study, distance in (("a", 10.0), ("b", 20.0)):
        evaluation = make_run(
            tmp_path, "evaluation", f"e{study}", parents={"generator": "g", "extractor": "x"}
        )
        finish(evaluation, [value("gfcd", distance, seed=0)])
        write_plan(
            tmp_path,
            study,
            [
                planned("g", "generator", [("vq", {"size": "S"})]),
                planned(f"e{study}", "evaluation", [("vq", {"size": "S"})]),
            ],
        )
    table = read.endpoints(wide=True, home=tmp_path)
    assert one(table, run_id="g", study="a")["gfcd"] == 10.0
    assert one(table, run_id="g", study="b")["gfcd"] == 20.0
    assert math.isnan(one(table, run_id="g", study="b")["gfcd_std"])  # one seed has no spread
    assert sorted(table["run_id"]) == ["branch", "by-hand", "g", "g"]  # the trunk is no result
    assert one(table, run_id="by-hand")["study"] is None
    assert len(read.endpoints("a", wide=True, home=tmp_path)) == 1


def test_axes_and_metrics_that_are_called_like_columns(tmp_path):
    axes = {"codebook_size": 128, "status": "x", "params": "small", "psnr": 1, "cfg": 1.5}
    run = make_run(tmp_path, "tokenizer", "t")
    finish(
        run,
        [value("val_loss", 9.0), value("cfg", 7.0), value("params", 5.0)],
        columns={"params": 11},
    )
    run = make_run(tmp_path, "generator", "g", parents={"tokenizer": "t"})
    finish(run, [value("val_loss", 1.0)], columns={"codebook_size": 64, "params": 3})
    write_plan(tmp_path, "s", [planned("g", "generator", [("vq", axes)])])
    table = read.endpoints("s", wide=True, home=tmp_path)
    row = table.iloc[0]
    assert table.columns.is_unique
    assert row["codebook_size"] == 128  # one column, the study's
    assert (row["axis_status"], row["status"]) == ("x", "done")
    assert (row["axis_params"], row["params"]) == ("small", 3)
    assert (row["tokenizer_params"], row["tokenizer_tokenizer_params"]) == (11, 5.0)
    assert row["axis_psnr"] == 1 and math.isnan(row["psnr"])
    assert (row["val_loss"], row["tokenizer_val_loss"]) == (1.0, 9.0)
    assert (row["cfg"], row["tokenizer_cfg"]) == (1.5, 7.0)
    assert str(table["cfg"].dtype) == "float64" and str(table["axis_status"].dtype) == "object"


def test_the_first_listed_provenance_of_a_metric_is_the_main_one(tmp_path):
    run = make_run(tmp_path, "generator", "g")
    finish(run, [value("val_loss", 1.0)])
    run = make_run(tmp_path, "evaluation", "e", parents={"generator": "g"})
    values = [
        value("gfcd", number, extractor=extractor, seed=seed)
        for extractor, seed, number in (("z", 0, 1.0), ("z", 1, 3.0), ("a", 0, 100.0))
    ]
    finish(run, values)
    row = read.endpoints(wide=True, home=tmp_path).iloc[0]
    assert (row["gfcd"], row["gfcd_seeds"], row["gfcd_extractor"]) == (2.0, 2, "z")


def test_tables_go_to_files_and_back(home, tmp_path):
    for wide in (False, True):
        table = read.flat(read.endpoints("toy", wide=wide, home=home))
        table.to_parquet(tmp_path / "x.parquet")
        back = pd.read_parquet(tmp_path / "x.parquet")
        assert list(back.columns) == list(table.columns) and len(back) == len(table)
        table.to_csv(tmp_path / "x.csv", index=False)
        assert list(pd.read_csv(tmp_path / "x.csv")["arm"]) == list(table["arm"])
    assert np.log(read.endpoints("toy", wide=True, home=home)["params"].astype(float)).sum() > 0


def test_artifacts_are_loaded_and_checked(tmp_path):
    run = make_run(tmp_path, "generator", "g")
    run.artifacts_path.mkdir()
    np.save(run.artifacts_path / "loss.npy", np.arange(3.0))
    np.savez(run.artifacts_path / "both.npz", a=np.ones(2), b=np.zeros(1))
    durable.write_json(run.artifacts_path / "facts.json", {"a": 1})
    (run.artifacts_path / "grid.png").write_bytes(b"picture")
    np.save(run.artifacts_path / "code.npy", np.array([{"a": 1}]), allow_pickle=True)
    artifacts = [
        {
            "name": file.split(".")[0],
            "file": where + file,
            "sha256": durable.sha256_file(run.artifacts_path / file),
            "bytes": (run.artifacts_path / file).stat().st_size,
        }
        for file, where in (
            ("loss.npy", ""),
            ("both.npz", "artifacts/"),
            ("facts.json", ""),
            ("grid.png", ""),
            ("code.npy", ""),
        )
    ]
    finish(run, [value("val_loss", 1.0)], artifacts=artifacts)
    assert list(read.artifact("g", "loss", tmp_path)) == [0.0, 1.0, 2.0]
    assert sorted(read.artifact("g", "both", tmp_path)) == ["a", "b"]
    assert read.artifact("g", "facts", tmp_path) == {"a": 1}
    assert read.artifact("g", "facts.json", tmp_path) == {"a": 1}
    assert read.artifact("g", "grid", tmp_path) == run.artifacts_path / "grid.png"
    with pytest.raises(ValueError, match="allow_pickle"):
        read.artifact("g", "code", tmp_path)
    with pytest.raises(ValueError, match="artifacts of run g are: both, code, facts, grid, loss"):
        read.artifact("g", "los", tmp_path)
    with pytest.raises(ValueError, match="no finished run"):
        read.artifact("h", "loss", tmp_path)
    np.save(run.artifacts_path / "loss.npy", np.arange(3.0) + 1)
    with pytest.raises(strict_json.DamagedError, match="sha256 differs"):
        read.artifact("g", "loss", tmp_path)
    (run.artifacts_path / "grid.png").unlink()
    with pytest.raises(strict_json.DamagedError, match=r"grid\.png: missing"):
        read.artifact("g", "grid", tmp_path)


def test_a_large_study_is_read_in_seconds(tmp_path):
    """20,000 endpoint values, put into the database directly; five times as many take 4 s."""
    from sqlalchemy import insert

    from tokenlaw.results_db import schema
    from tokenlaw.results_db.engine import opened, transact

    count, seeds = 2_000, 8
    runs, edges, members, values = [], [], [], []

    def add(run_id, kind, axes, parents):
        runs.append({"id": run_id, "kind": kind, "state": "done"})
        edges.extend({"child": run_id, "role": role, "parent": p} for role, p in parents)
        members.append(
            {
                "study": "big",
                "run_id": run_id,
                "arm": "vq",
                "axes_key": run_id,
                "axes": axes,
                "is_primary": True,
                "planned": {},
            }
        )

    def add_value(run_id, metric, number, **provenance):
        values.append(
            {
                "run_id": run_id,
                "metric": metric,
                "provenance_key": str(provenance.get("seed", "")),
                "position": len(values),
                "value": number,
                "status": "done",
                "unit": None,
                "provenance": provenance,
            }
        )

    add("t", "tokenizer", {}, [])
    add("c", "codes", {}, [("tokenizer", "t")])
    for number in range(count):
        axes = {"size": number % 100, "iterations": number // 100}
        add(f"g{number}", "generator", axes, [("codes", "c")])
        add(f"e{number}", "evaluation", axes, [("generator", f"g{number}"), ("extractor", "x")])
        add_value(f"g{number}", "val_loss", 1.0)
        add_value(f"g{number}", "val_bits_per_image", 9.0)
        for seed in range(seeds):
            add_value(f"e{number}", "gfcd", float(seed), seed=seed, extractor="a", floor=0.1)
    with opened(tmp_path) as engine:

        def work(connection):
            connection.execute(
                insert(schema.Study), [{"name": "big", "plan": "p", "created_at": ""}]
            )
            for table, rows in (
                (schema.Run, runs),
                (schema.Edge, edges),
                (schema.Member, members),
                (schema.Endpoint, values),
            ):
                connection.execute(insert(table.__table__), rows)

        transact(engine, work)
    started = time.process_time()
    table = read.endpoints("big", wide=True, home=tmp_path)
    assert time.process_time() - started < 3
    assert len(table) == count and set(table["gfcd"]) == {3.5} and len(values) == 20_000


def test_a_direction_is_in_both_tables_where_all_runs_agree(tmp_path):
    def told(metric, number, better):
        return value(metric, number) | ({"better": better} if better else {})

    parents = {"codes": "codes"}
    for number, better in (("1", "lower"), ("2", None)):
        run = make_run(tmp_path, "generator", f"g{number}", parents=parents)
        finish(run, [told("val_loss", 2.0, better), told("shape", 1.0, better)])
        evaluation = make_run(
            tmp_path, "evaluation", f"e{number}", parents={"generator": f"g{number}"}
        )
        values = [
            told("gfcd", 4.0 + seed, "lower") | {"provenance": {"seed": seed}} for seed in (0, 1)
        ]
        odd = "higher" if number == "1" else "lower"
        finish(evaluation, [*values, told("shape", 3.0, "higher"), told("torn", 1.0, odd)])
    finish(make_run(tmp_path, "codes", "codes"), [told("usage", 0.5, "higher")])
    table = read.endpoints(wide=True, home=tmp_path)
    assert table.attrs["better"] == {
        "val_loss": "lower", "shape": "lower", "generator_eval_shape": "higher",
        "gfcd": "lower", "usage": "higher",
    }  # fmt: skip
    assert read.flat(table).attrs["better"] == table.attrs["better"]
    long = read.endpoints(home=tmp_path)
    assert one(long, run_id="g1", metric="val_loss")["better"] == "lower"
    assert pd.isna(one(long, run_id="g2", metric="val_loss")["better"])
    table.to_parquet(tmp_path / "wide.parquet", index=False)
    assert pd.read_parquet(tmp_path / "wide.parquet").attrs["better"] == table.attrs["better"]
