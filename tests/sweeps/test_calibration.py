"""Calibration: which shapes are timed, what is kept of it, and what later plans make of that."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import tiny
from small_study import grid

from tokenlaw.results_db.record import claim
from tokenlaw.slurm.follow.runs import run_lines, spent_hours, study_plan
from tokenlaw.sweeps import cost
from tokenlaw.sweeps import measured_speeds as calibration
from tokenlaw.sweeps.cli.app import main
from tokenlaw.sweeps.plan import make_plan, write_run
from tokenlaw.sweeps.planned import Plan

STUDY = """
import tiny
from tokenlaw import Axis, Grid


def study():
    return Grid(
        data=tiny.data(),
        tokenizer={**tiny.tokenizer(), "data": {}},
        generator=tiny.generator(),
        axes=(Axis("iterations", (5, 50), path="generator.iterations"),),
    )
"""
HARDWARE = "NVIDIA Toy"


def answer(*results: dict):
    """A stand-in for the machine; notes what it was asked."""
    asked = []

    def measure(spec):
        asked.append(spec)
        return {"hardware": HARDWARE, "results": list(results)}

    measure.asked = asked
    return measure


def timed(seconds, **changes):
    found = {"seconds_per_step": seconds, "peak_memory_bytes": 2 << 30, "unit": "tokens/s"}
    return found | {"units_per_step": 512, "flops_per_step": 1e9} | changes


def calibrated(home: Path, plan: Plan, measure):
    return calibration.calibrate(
        plan, measure, home=home, settings={"device": "cpu"}, seconds=1.0, place="local"
    )


@pytest.fixture
def plan(tmp_path) -> Plan:
    return make_plan(grid(), home=tmp_path)


def test_each_shape_is_timed_once_and_later_plans_use_it(plan, tmp_path):
    shapes = calibration.shapes(plan)
    assert [run.kind for run in shapes] == ["tokenizer", "generator", "generator"]
    measure = answer(
        timed([0.1, 0.2, 0.4], unit="images/s", units_per_step=8),
        timed([1.0, 2.0, 4.0]),
        {"error": "out of memory"},
    )
    timings = calibrated(tmp_path, plan, measure)
    (spec,) = measure.asked
    assert [job["kind"] for job in spec["jobs"]] == [run.kind for run in shapes]
    assert spec["jobs"][1]["config"]["model"]["width"] == 32
    assert spec["jobs"][1]["tokenizer"]["quantizer"]["name"] == "vq"
    assert spec["jobs"][0]["random_images"] is False
    assert [timing.entry is None for timing in timings] == [False, False, True]
    assert timings[1].text().endswith("256 tokens/s (128 .. 512), 2.00 GiB")
    assert timings[2].text().endswith("not timed: out of memory")

    small, large = shapes[1:]
    again = {run.id: run for run in make_plan(grid(), home=tmp_path).runs}
    hours = small.flops_train / 1e9 * 2.0 / 3600
    found = again[small.id]
    assert (found.hours_source, found.gpu_hours) == ("measured", pytest.approx(hours))
    assert found.gpu_hours_interval == pytest.approx((hours / 2, hours * 2))
    # Another shape is a guess from this one, with no interval.
    guess = again[large.id]
    assert guess.hours_source == "default" and guess.gpu_hours_interval is None
    assert guess.gpu_hours == pytest.approx(hours * large.flops_train / small.flops_train)
    other = {r.id: r for r in make_plan(grid(), home=tmp_path, hardware="NVIDIA H100").runs}
    assert other[small.id].hours_source == "table"
    totals = make_plan(grid(), home=tmp_path).totals()
    assert totals["gpu_hours_low"] < totals["gpu_hours"] < totals["gpu_hours_high"]


def test_images_that_are_not_at_hand_are_random(tmp_path):
    facts = {"num_classes": 10, "num_train": 50, "num_val": 10, "resolution": 32}
    plan = make_plan(grid(axes=(), data={"dataset": "digits", **facts}), home=tmp_path)
    measure = answer(*[timed([1.0])] * 2)
    calibrated(tmp_path, plan, measure)
    assert measure.asked[0]["jobs"][0]["random_images"] is True


def test_a_newer_measurement_takes_the_place_of_an_older_one(plan, tmp_path):
    three = [timed([1.0] * 5)] * 3
    calibrated(tmp_path, plan, answer(*three))
    calibrated(tmp_path, plan, answer(*[timed([3.0] * 5)] * 3))
    stored = json.loads((tmp_path / "calibration.json").read_text())["entries"]
    assert [entry["rate"] for entry in stored] == [512 / 3.0] * 3
    assert {entry["hardware"] for entry in stored} == {HARDWARE}
    assert all(entry["versions"]["torch"] for entry in stored)
    half = dataclasses.replace(calibration.speeds(tmp_path)[0], precision="bf16")
    rates = cost.Rates(HARDWARE)
    rates.add_speeds([half])
    run = calibration.shapes(plan)[0]
    work = cost.tokenizer_work(run.config)
    assert rates.hours("tokenizer", work).source == "default"  # fp32 was not timed


def test_finished_runs_count_for_more_than_a_few_iterations(plan, tmp_path):
    calibrated(tmp_path, plan, answer(*[timed([1.0] * 5)] * 3))
    run = next(r for r in plan.runs if r.kind == "generator")
    finish(tmp_path, run, 7.0)
    again = {r.id: r for r in make_plan(grid(), home=tmp_path).runs}
    assert again[run.id].gpu_hours == pytest.approx(7.0)
    assert again[run.id].gpu_hours_interval is None
    # What is done is not timed again.
    done = make_plan(grid(axes=()), home=tmp_path)
    for run in done.runs:
        if run.state != "done":
            finish(tmp_path, run, 1.0)
    assert calibration.shapes(make_plan(grid(axes=()), home=tmp_path)) == []


def finish(home: Path, run, hours: float) -> None:
    folder = write_run(home, run, {})
    attempt = claim(folder, executor="local")
    columns = {"gpu_hours": hours, "hardware": HARDWARE}
    attempt.write_endpoint({"status": "done", "values": [], "columns": columns, "artifacts": []})
    attempt.finish("done")


def test_predicted_against_actual(plan, tmp_path):
    plan.write(tmp_path)
    assert spent_hours(run_lines(tmp_path, study_plan(tmp_path, "small"))) is None
    run = next(r for r in plan.runs if r.kind == "generator")
    finish(tmp_path, run, 7.0)
    spent = spent_hours(run_lines(tmp_path, study_plan(tmp_path, "small")))
    assert (spent.runs, spent.actual, spent.predicted) == (1, 7.0, run.gpu_hours)
    # A later plan, which knows what the run took, does not change what was expected of it.
    larger = make_plan(grid(), home=tmp_path, overrides=["axes.iterations=[10,20,40,80]"])
    assert next(r for r in larger.runs if r.id == run.id).gpu_hours == pytest.approx(7.0)
    larger.write(tmp_path)
    again = spent_hours(run_lines(tmp_path, study_plan(tmp_path, "small")))
    assert (again.predicted, again.actual) == (run.gpu_hours, 7.0)
    assert "7, predicted" in again.text()


def test_another_version_of_the_file_is_refused(tmp_path):
    (tmp_path / "calibration.json").write_text('{"scheme": 9}')
    with pytest.raises(ValueError, match="calibration.json: is of another version"):
        make_plan(grid(), home=tmp_path)


def test_kinds_that_ask_for_different_things_are_timed_apart(tmp_path, capsys, monkeypatch):
    from tokenlaw.slurm import timing
    from tokenlaw.slurm.executors.local import Executor
    from tokenlaw.slurm.resources import Resources

    asked = []

    def calibrate(self, folder, kind):
        spec = json.loads((folder / timing.SPEC).read_text())
        asked.append((kind, [job["kind"] for job in spec["jobs"]]))
        content = {"hardware": HARDWARE, "results": [timed([1.0])] * len(spec["jobs"])}
        (folder / timing.RESULT).write_text(json.dumps(content))
        return "well"

    monkeypatch.setattr(Executor, "calibrate", calibrate)
    (tmp_path / "mine.py").write_text(STUDY)
    command = ["plan", str(tmp_path / "mine.py"), "--home", str(tmp_path / "home"), "--calibrate"]
    # More processes of a run make no difference: one is timed.
    for gpus in ({"tokenizer": 2, "generator": 1}, {"tokenizer": 0, "generator": 1}):
        monkeypatch.setattr(
            Executor, "resources", lambda _, kind, gpus=gpus: Resources(gpus=gpus[kind])
        )
        assert main(command) == 0
    both = ["tokenizer", "generator"]
    assert asked == [("tokenizer", both), *((kind, [kind]) for kind in both)]
    stored = json.loads((tmp_path / "home/calibration.json").read_text())["entries"]
    assert sorted(entry["kind"] for entry in stored) == sorted(both)
    assert main([*command, "--on", "nowhere"]) == 2
    assert "allowed: local, ray, slurm" in capsys.readouterr().err
    assert main([*command, "--resource", "colour=red"]) == 2
    assert "colour" in capsys.readouterr().err


def test_on_this_machine(tmp_path, capsys, monkeypatch):
    """Once through everything, with the process that trains."""
    monkeypatch.setattr("tokenlaw.sweeps.cli.verbs.plan.CALIBRATION_SECONDS", 0.05)
    (tmp_path / "mine.py").write_text(STUDY)
    command = ["plan", str(tmp_path / "mine.py"), "--home", str(tmp_path / "home")]
    assert main([*command, "--calibrate", "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    runs = json.loads(out)["runs"]
    sources = {(run["kind"], run["hours_source"]) for run in runs}
    assert sources == {
        *(("tokenizer", "measured"), ("generator", "measured")),
        ("codes", "default"),
    }
    generators = [run for run in runs if run["kind"] == "generator"]
    low, high = generators[1]["gpu_hours_interval"]
    assert low <= generators[1]["gpu_hours"] <= high
    assert generators[1]["gpu_hours"] == pytest.approx(10 * generators[0]["gpu_hours"])
    assert "tokens/s" in err and "images/s" in err and "GiB" in err
    assert not list((tmp_path / "home/launches").iterdir()), "what was asked is not kept"
    assert main([*command, "--max-gpu-hours", "1e-9"]) == 2
    assert main([*command, "--max-flops", "1"]) == 2
    assert tiny.MODEL["width"] == 32  # the study is that of the tiny runs
