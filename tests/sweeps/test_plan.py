"""Plans: ids, shared runs, states, costs, and the files of a plan."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_study import grid

from tokenlaw.results_db.durable import MisplacedError
from tokenlaw.results_db.plan_file import current_plan_path, read_plan
from tokenlaw.results_db.provenance import cpu_name
from tokenlaw.results_db.record import RunDir
from tokenlaw.results_db.strict_json import read_json
from tokenlaw.sweeps.cost import Rates, check_budget
from tokenlaw.sweeps.grid import Axis, Grid, part
from tokenlaw.sweeps.plan import make_plan, write_run
from tokenlaw.sweeps.planned import Plan, PlannedRun
from tokenlaw.sweeps.study import load_study
from tokenlaw.trainer.accounting.config import decode_run
from tokenlaw.trainer.accounting.identity import run_id
from tokenlaw.trainer.run import hardware_name

ROOT = Path(__file__).resolve().parents[2]

# One run of each kind of the small study. These never change: a change of a default or a new
# field must not rename the runs that people have.
GOLDEN = {
    "extractor": "39a050979616eb27",
    "tokenizer": "3b152ca0c94d8de9",
    "codes": "911d21e057497746",
    "generator": "176c15523f6a8bb0",
    "evaluation": "f1fa74b666c39549",
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    return make_plan(grid(), home=tmp_path_factory.mktemp("home"))


def first(plan: Plan, kind: str) -> PlannedRun:
    return next(run for run in plan.runs if run.kind == kind)


def test_golden_ids(plan):
    assert {kind: first(plan, kind).id for kind in GOLDEN} == GOLDEN


def test_ids_are_equal_in_another_process_and_folder(plan, tmp_path):
    code = (
        "from small_study import grid\n"
        "from tokenlaw.sweeps.plan import make_plan\n"
        "import os\n"
        "print([run.id for run in make_plan(grid(), home=os.getcwd()).runs])\n"
    )
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([run.id for run in plan.runs])


def test_a_config_that_is_written_has_the_id_of_its_run(tmp_path):
    varied = dataclasses.replace(
        grid(),
        axes=(
            *grid().axes,
            Axis("lr_peak", (1e-3, 1, 2.5e-4), path="generator.optim.lr_peak"),
            Axis("seed", (0, 1), path=("generator.seed", "tokenizer.seed")),
            Axis("resolution", (32, 64), path="data.resolution"),
        ),
    )
    plan = make_plan(varied, home=tmp_path, overrides=["codes.num_train=100"])
    assert len(plan.runs) > 300
    for run in plan.runs:
        again = decode_run(run.kind, json.loads(run.config_json))
        assert again == run.config
        assert run_id(run.kind, again, run.parents) == run.id


def test_shared_runs_are_planned_once(plan):
    (extractor,) = [run for run in plan.runs if run.kind == "extractor"]
    assert [member.arm for member in extractor.members] == ["vq", "crt"]
    assert extractor.arm is None
    tokenizers = [run for run in plan.runs if run.kind == "tokenizer"]
    assert [run.arm for run in tokenizers] == ["vq", "crt"]
    codes = {run.parents["tokenizer"]: run.id for run in plan.runs if run.kind == "codes"}
    assert set(codes) == {run.id for run in tokenizers}
    for run in plan.runs:
        if run.kind == "generator":
            assert run.parents["codes"] in codes.values()


def test_parents_come_first_and_by_role(plan):
    seen: set[str] = set()
    for run in plan.runs:
        assert set(run.parents.values()) <= seen
        seen.add(run.id)
    roles = {run.members[0].evaluation: set(run.parents) for run in plan.runs}
    assert roles["reconstruction"] == {"tokenizer"}  # psnr needs no extractor
    assert roles["samples"] == {"generator", "codes", "tokenizer", "extractor"}


def test_a_metric_set_later_brings_its_extractor(tmp_path):
    sets = ['evaluations.reconstruction.metrics=["psnr", "fcd"]']
    changed = make_plan(grid(), home=tmp_path, overrides=sets)
    roles = {run.members[0].evaluation: set(run.parents) for run in changed.runs}
    assert roles["reconstruction"] == {"tokenizer", "extractor"}


def test_document(plan):
    document = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert document["study"] == "small"
    keys = {"id", "kind", "arm", "axes", "parents", "params", "flops_train", "gpu_hours", "state"}
    for run in document["runs"]:
        assert keys <= set(run)
        assert len(run["id"]) == 16
    totals = document["totals"]
    assert totals["runs"] == len(document["runs"]) == 31
    assert totals["flops_train"] == sum(run["flops_train"] for run in document["runs"])
    assert totals["gpu_hours"] == pytest.approx(sum(run["gpu_hours"] for run in document["runs"]))
    assert totals["by_kind"]["generator"]["runs"] == 12


def test_resources_are_no_part_of_an_id(plan, tmp_path):
    asking = make_plan(grid(resources={"partition": "gpu"}), home=tmp_path)
    assert asking.resources == {"partition": "gpu"}
    assert [run.id for run in asking.runs] == [run.id for run in plan.runs]
    assert asking.hash == plan.hash


def test_adding_an_arm_keeps_all_ids(plan, tmp_path):
    more = {**grid().arms, "short": {"tokenizer.iterations": 5}}
    larger = make_plan(grid(arms=more), home=tmp_path)
    assert {run.id for run in plan.runs} < {run.id for run in larger.runs}


# ------------------------------------------------------------------------------------------- costs


def test_generator_costs_follow_the_one_accounting(plan):
    run = next(r for r in plan.runs if r.kind == "generator" and r.axes["iterations"] == 20)
    d, layers, hidden, vocabulary, length = 32, 1, 96, 64, 64
    matmul = layers * (4 * d * d + 3 * d * hidden) + vocabulary * d
    tokens = 20 * 8 * length
    assert run.flops_train == tokens * (6 * matmul + 6 * layers * d * length)
    assert run.params == matmul + vocabulary * d + 11 * d + layers * 2 * d + d
    assert run.flops_paper == 6 * run.params * 20 * 8


def finished(home: Path, run: PlannedRun, **columns) -> None:
    folder = write_run(home, run, {})
    (folder / "attempts").mkdir()
    endpoint = {
        "scheme": 1,
        "run_id": run.id,
        "kind": run.kind,
        "attempt": 1,
        "status": "done",
        "reason": None,
        "values": [],
        "columns": columns,
        "artifacts": [],
        "commit": None,
        "dirty": None,
        "versions": {},
        "finished_at": "2026-01-01T00:00:00.000+00:00",
    }
    (folder / "endpoint.json").write_text(json.dumps(endpoint))


def test_hours_are_measured_where_a_run_of_that_shape_has_ended(plan, tmp_path):
    short, long = [
        next(r for r in plan.runs if r.kind == "generator" and r.axes == {"size": "S", **axes})
        for axes in ({"iterations": 10}, {"iterations": 40})
    ]
    assert long.hours_source == "default"
    finished(tmp_path, short, gpu_hours=0.5, hardware="NVIDIA Toy")
    again = {run.id: run for run in make_plan(grid(), home=tmp_path).runs}
    assert again[long.id].hours_source == "measured"
    assert again[long.id].gpu_hours == pytest.approx(2.0)  # four times the iterations
    other = make_plan(grid(), home=tmp_path, hardware="NVIDIA H100")
    assert {run.id: run for run in other.runs}[long.id].hours_source == "table"
    large = next(r for r in plan.runs if r.kind == "generator" and r.axes["size"] == "M")
    assert again[large.id].hours_source == "default"
    # No measurement of that shape, but the rate of its family on this hardware.
    share = large.flops_train / short.flops_train
    assert again[large.id].gpu_hours == pytest.approx(0.5 * share)


def test_the_quick_start_on_a_cpu_takes_about_what_it_took(tmp_path):
    # Measured on two cores of a Xeon, two runs at once: 634 s for 1.54e13 train FLOPs.
    made = make_plan(
        load_study("quickstart"), home=tmp_path, hardware=hardware_name(torch.device("cpu"))
    )
    assert made.hardware_known and made.hardware == cpu_name()
    measured = sum(run.flops_marginal for run in made.runs) * 634 / 1.54e13 / 3600
    assert measured / 2 < made.totals()["gpu_hours"] < measured * 2


def test_short_runs_are_mostly_setup_and_do_not_set_the_rate():
    rates = Rates()
    work = dataclasses.replace(_work(make_plan(grid(), home="nowhere")), flops_compute=1000)
    for flops, hours in ((10, 1.0), (100, 1.0), (90, 1.0)):
        rates.add(work.shape, flops, {"gpu_hours": hours, "hardware": "X"})
    assert rates.hours("generator", work).value == pytest.approx(1000 / 95)
    rates.add(work.shape, 1000, {"gpu_hours": 2.0, "hardware": "X"})
    assert rates.hours("generator", work).value == pytest.approx(2.0)
    for _ in range(9):
        rates.add(work.shape, 1000, {"gpu_hours": 7.0, "hardware": "Y"})
    assert rates.hours("generator", work).value == pytest.approx(7.0)


def test_hours_are_measured_from_other_studies_in_the_home(plan, tmp_path):
    tokenizer = first(plan, "tokenizer")
    finished(
        tmp_path,
        tokenizer,
        gpu_hours=1.0,
        params=tokenizer.params,
        tokens_per_image=64,
        images_train=80,
        iterations=10,
        flops_train=float(tokenizer.flops_train),
    )
    longer = make_plan(grid(), home=tmp_path, overrides=["tokenizer.iterations=30"])
    assert tokenizer.id not in {run.id for run in longer.runs}
    run = first(longer, "tokenizer")
    assert run.hours_source == "measured"
    assert run.gpu_hours == pytest.approx(3.0)


def test_a_damaged_endpoint_does_not_count(plan, tmp_path):
    run = first(plan, "tokenizer")
    folder = write_run(tmp_path, run, {})
    (folder / "endpoint.json").write_text("{")
    again = make_plan(grid(), home=tmp_path)
    assert first(again, "tokenizer").state == "planned"


def test_another_runs_endpoint_does_not_count(plan, tmp_path):
    first_one, second = [run for run in plan.runs if run.kind == "tokenizer"]
    finished(tmp_path, first_one)
    folder = write_run(tmp_path, second, {})
    copied = (tmp_path / "tokenizer" / first_one.id / "endpoint.json").read_text()
    (folder / "endpoint.json").write_text(copied)
    again = make_plan(grid(), home=tmp_path)
    assert [run.state for run in again.runs if run.kind == "tokenizer"] == ["done", "planned"]


def test_table_rates_know_the_device():
    rates = Rates("NVIDIA H200")
    slow = Rates("Tesla T4")
    run = make_plan(grid(), home="nowhere")
    work = dataclasses.replace(
        _work(run), flops_compute=10**20, steps=1, precision="bf16", shape=("none",)
    )
    assert rates.hours("generator", work).source == "table"
    ratio = slow.hours("generator", work).value / rates.hours("generator", work).value
    assert ratio == pytest.approx(989 / 65)
    assert Rates("CPU toy").hours("generator", work).value == pytest.approx(1e20 / 2e10 / 3600)


def _work(plan: Plan):
    from tokenlaw.sweeps.cost import generator_work

    by_id = {run.id: run for run in plan.runs}
    generator = first(plan, "generator")
    codes = by_id[generator.parents["codes"]]
    return generator_work(generator.config, codes.config, by_id[codes.parents["tokenizer"]].config)


def test_budgets_refuse():
    totals = {"gpu_hours_left": 3.0, "flops_left": 1e15}
    check_budget(totals, 3.0, 1e15)
    with pytest.raises(ValueError, match="--max-gpu-hours: the plan needs 3 GPU-hours more"):
        check_budget(totals, 2.9, None)
    with pytest.raises(ValueError, match="--max-flops"):
        check_budget(totals, None, 1e14)


# ------------------------------------------------------------------------------------ states, files


def test_states_come_from_the_files(plan, tmp_path):
    states = {run.kind: run.state for run in plan.runs if run.kind != "evaluation"}
    assert states == {
        "extractor": "planned",
        "tokenizer": "planned",
        "codes": "waiting",
        "generator": "waiting",
    }
    finished(tmp_path, first(plan, "tokenizer"))
    again = make_plan(grid(), home=tmp_path)
    assert [run.state for run in again.runs if run.kind == "tokenizer"] == ["done", "planned"]
    assert [run.state for run in again.runs if run.kind == "codes"] == ["planned", "waiting"]
    totals = again.totals()
    assert totals["done"] == 1
    assert totals["gpu_hours_left"] < totals["gpu_hours"]


def test_plan_file_is_what_the_database_reads(plan, tmp_path):
    path = plan.write(tmp_path)
    assert path.name == f"plan-{plan.hash}.json"
    assert current_plan_path(tmp_path, "small") == path
    stored = read_plan(path)
    assert (stored.study, stored.hash) == ("small", plan.hash)
    assert [run.id for run in stored.runs] == [run.id for run in plan.runs]
    for run, planned in zip(stored.runs, plan.runs, strict=True):
        assert run.parents == planned.parents
        assert [(m.arm, m.axes, m.primary) for m in run.members] == [
            (m.arm, m.axes, m.primary) for m in planned.members
        ]
    before = path.read_bytes()
    assert plan.write(tmp_path) == path
    assert path.read_bytes() == before
    other = make_plan(grid(), home=tmp_path, overrides=["generator.seed=4"])
    assert other.hash != plan.hash
    newest = other.write(tmp_path)
    assert current_plan_path(tmp_path, "small") == newest != path


def test_run_folder(plan, tmp_path):
    run = first(plan, "generator")
    folder = RunDir(write_run(tmp_path, run, {"device": "cpu", "locations": {"data": None}}))
    assert (folder.kind, folder.id) == ("generator", run.id)
    content = folder.config()
    assert content["parents"] == run.parents
    config = decode_run("generator", content["config"])
    assert run_id("generator", config, content["parents"]) == run.id
    assert read_json(folder.settings_path)["device"] == "cpu"
    write_run(tmp_path, run, {"device": "cuda", "locations": {"data": None}})
    assert read_json(folder.settings_path)["device"] == "cuda"


@pytest.mark.parametrize("damage", ["empty", "half", "object", "folder", "link"])
def test_a_damaged_config_of_a_run_to_be_done_is_written_anew(plan, tmp_path, damage):
    run = first(plan, "generator")
    folder = RunDir(write_run(tmp_path, run, {"device": "cpu"}))
    good = folder.config_path.read_bytes()
    folder.config_path.unlink()
    match damage:
        case "folder":
            folder.config_path.mkdir()
        case "link":
            (tmp_path / "target").write_bytes(good)
            folder.config_path.symlink_to(tmp_path / "target")
        case _:
            text = {"empty": b"", "half": good[: len(good) // 2], "object": b"{}"}[damage]
            folder.config_path.write_bytes(text)
    write_run(tmp_path, run, {"device": "cpu"})
    assert folder.config_path.read_bytes() == good and not folder.config_path.is_symlink()


def test_another_runs_config_is_not_overwritten(plan, tmp_path):
    one, other = (run for run in plan.runs if run.kind == "tokenizer")
    folder = RunDir(write_run(tmp_path, one, {}))
    strange = RunDir(write_run(tmp_path, other, {})).config_path.read_bytes()
    folder.config_path.write_bytes(strange)
    with pytest.raises(MisplacedError):
        write_run(tmp_path, one, {})
    assert folder.config_path.read_bytes() == strange


# --------------------------------------------------------------------------------------------- data


def bundled() -> Grid:
    return grid(data={"dataset": part("digits"), "resolution": 32})


def test_bundled_data_bring_counts_and_digest(tmp_path):
    plan = make_plan(bundled(), home=tmp_path)
    data = first(plan, "tokenizer").config.data
    assert (data.num_classes, data.num_train + data.num_val) == (10, 1797)
    assert data.digest is not None
    assert plan.missing_data is None


def test_declared_counts_plan_but_do_not_launch(tmp_path):
    declared = {"num_classes": 1000, "num_train": 1_281_167, "num_val": 50_000, "resolution": 32}
    plan = make_plan(grid(data={"dataset": "digits", **declared}), home=tmp_path)
    assert first(plan, "tokenizer").config.data.digest is None
    assert plan.missing_data is not None
    assert "--data digits:FOLDER" in plan.missing_data
    with pytest.raises(ValueError, match="data.dataset: is required"):
        make_plan(grid(data=declared), home=tmp_path)


def test_data_option_replaces_the_set_and_stays_out_of_ids(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    plans = [make_plan(bundled(), home=tmp_path, data=f"digits:{folder}") for folder in folders]
    assert [plan.locations for plan in plans] == [{"data": str(folder)} for folder in folders]
    assert [run.id for run in plans[0].runs] == [run.id for run in plans[1].runs]
    split = grid(data={"dataset": part("digits", split_seed=3), "resolution": 32})
    same_set = make_plan(split, home=tmp_path, data=f"digits:{tmp_path}")
    assert first(same_set, "tokenizer").config.data.dataset.config.split_seed == 3
    with pytest.raises(ValueError, match="--data: 'digits'; allowed: NAME:FOLDER"):
        make_plan(bundled(), home=tmp_path, data="digits")
    with pytest.raises(ValueError, match="'digts' is unknown.*did you mean 'digits'"):
        make_plan(bundled(), home=tmp_path, data="digts:/nowhere")
