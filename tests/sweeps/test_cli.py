"""The command line: what it prints, its one style of error, its exit codes, what it imports."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_study import grid

from tokenlaw.results_db.record import RunDir
from tokenlaw.sweeps import plan as planning
from tokenlaw.sweeps.cli.app import main
from tokenlaw.sweeps.plan import make_plan, write_run

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
from functools import partial
from small_study import grid as named
grid = partial(named, name="")

def study(iterations: int = 10, scale: str = "tiny"):
    if scale not in ("tiny", "gpu"):
        raise ValueError(f"scale: {scale!r}; allowed: tiny, gpu")
    return grid(axes=()) if iterations == 10 else grid(
        axes=(), generator={**grid().generator, "iterations": iterations}
    )
"""


@pytest.fixture
def study(tmp_path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(STUDY)
    return str(path)


@pytest.fixture
def tokenlaw(tmp_path, capsys):
    """Runs a command with a home of its own; gives exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_plan_json(tokenlaw, study):
    code, out, _ = tokenlaw("plan", study, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["study"] == "mine"
    assert document["totals"]["runs"] == len(document["runs"]) == 11


def test_plan_table_shows_runs_and_totals(tokenlaw, study):
    code, out, _ = tokenlaw("plan", study)
    assert code == 0
    lines = out.splitlines()
    header = next(line for line in lines if line.startswith("run "))
    assert header.split() == [
        *("run", "kind", "arm", "params", "FLOPs", "hours", "source", "state"),
    ]
    assert sum("generator" in line and "waiting" in line for line in lines) == 2
    assert any(line.startswith("all ") and line.split()[1] == "11" for line in lines)


def test_large_plans_are_shown_in_groups(tokenlaw, tmp_path):
    path = tmp_path / "wide.py"
    path.write_text(
        "from small_study import grid\n"
        "from tokenlaw.sweeps.grid import Axis, where\n"
        "def study():\n"
        "    seeds = Axis('seed', tuple(range(40)), path='generator.seed')\n"
        "    even = where(lambda c: c['seed'] % 2 == 0, 'odd seeds are odd')\n"
        "    return grid(name='', axes=(seeds,), where=(even,))\n"
    )
    code, out, _ = tokenlaw("plan", str(path))
    assert code == 0
    assert "20 seed" in out
    assert "dropped: arm=vq, seed=1: odd seeds are odd" in out
    assert "dropped: 30 more; --json lists them" in out
    code, out, _ = tokenlaw("plan", str(path), "--runs")
    assert sum("generator" in line.split()[1:2] for line in out.splitlines()) == 40


def test_options_of_the_study(tokenlaw, study):
    code, out, _ = tokenlaw("plan", study, "--option", "iterations=30", "--scale", "gpu", "--json")
    assert code == 0
    short = {run["flops_train"] for run in json.loads(tokenlaw("plan", study, "--json")[1])["runs"]}
    long = {run["flops_train"] for run in json.loads(out)["runs"]}
    assert short != long
    code, _, err = tokenlaw("plan", study, "--option", "iteratons=30")
    assert (code, err.count("\n")) == (2, 1)
    assert "no option 'iteratons' (did you mean 'iterations'?); allowed: iterations, scale" in err
    assert "scale: 'huge'; allowed: tiny, gpu" in tokenlaw("plan", study, "--scale", "huge")[2]


def test_hours_name_their_device_and_launches_here_are_for_this_machine(
    tokenlaw, study, monkeypatch
):
    from tokenlaw.slurm import launch as launching
    from tokenlaw.sweeps import cost

    monkeypatch.setattr(cost, "local_gpu", lambda: None)
    assert "Hours on A100, assumed (--hardware" in tokenlaw("plan", study)[1]
    here = json.loads(tokenlaw("plan", study, "--hardware", "cpu", "--json")[1])
    assert here["hardware"].startswith("CPU ")
    launched = []

    def nothing(plan, **_):
        launched.append(plan)
        raise RuntimeError("enough")

    monkeypatch.setattr(launching, "launch", nothing)
    tokenlaw("launch", study)
    tokenlaw("quickstart", study)
    tokenlaw("launch", study, "--on", "slurm", "--yes")
    assert [plan.hardware for plan in launched] == [here["hardware"]] * 2 + ["A100"]
    totals = [plan.totals()["gpu_hours"] for plan in launched]
    assert totals[0] == totals[1] == here["totals"]["gpu_hours"] > 1.5 * totals[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "quickstrat"], "study: 'quickstrat' is unknown (did you mean 'quickstart'?)"),
        (["plan", "nowhere.py"], "study: 'nowhere.py' is not a file"),
        (["plan", "quickstart", "--set", "generator.modle=1"], "did you mean 'model'?"),
        (["plan", "quickstart", "--data", "digits"], "--data: 'digits'; allowed: NAME:FOLDER"),
        (["plan", "quickstart", "--data", "parquet:/no/where"], "/no/where"),
        (["plan", "quickstart", "--max-flops", "1"], "--max-flops: the plan needs"),
        (["plan", "quickstart", "--max-gpu-hours", "many"], "--max-gpu-hours"),
        (["plan", "quickstart", "--max-flops", "nan"], "--max-flops: nan is not allowed"),
        (["launch", "quickstart", "--max-gpu-hours", "-1"], "--max-gpu-hours: -1.0 is not"),
        (
            ["plan", "quickstart", "--hardware", "H10"],
            "--hardware: 'H10' is unknown; allowed: cpu,",
        ),
        (["plan"], "STUDY"),
        (["plan", "quickstart", "--colour"], "--colour"),
        (["plam", "quickstart"], "plam"),
        (["launch", "quickstart", "--on", "slrum"], "'slrum' is unknown (did you mean 'slurm'?)"),
        (["launch", "crt_main"], "--data imagefolder:FOLDER"),
        (["status", "quickstart"], "has not been launched"),
        (["logs", "0123"], "RUN: '0123' is no run"),
        (["train", "0123"], "RUN: '0123' is no run"),
        (["results", "quickstart"], "--home: nothing is there"),
        (["results", "--format", "xls"], "--format: 'xls'; allowed: table, csv, parquet, json"),
        (["fit", "nowhere.csv"], "nowhere.csv"),
        (["sample", "0123", "--classes", "a,b"], "RUN: '0123' is no run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tokenlaw, arguments, message):
    code, out, err = tokenlaw(*arguments)
    assert (code, out if "--max" not in str(arguments) else "") == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def study(:\n", "line 1: SyntaxError"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named"),
        ("def study():\n    return unknown\n", "line 2: NameError: name 'unknown'"),
        (
            "from tokenlaw.sweeps.grid import Grid\ndef study():\n    return Grid(tokeniser={})\n",
            "line 3: TypeError",
        ),
        ("grid = 3\n", "has no function study()"),
        ("def study():\n    return 3\n", "study() returned int; allowed: a Grid"),
    ],
)
def test_a_slip_in_a_study_file_is_bad_input(tokenlaw, tmp_path, code, message):
    path = tmp_path / "slip.py"
    path.write_text(code)
    exit_code, _, err = tokenlaw("plan", str(path))
    assert exit_code == 2
    assert err.startswith(f"error: study: {path}")
    assert message in err
    assert err.count("\n") == 1


def test_schedule_without_home(capsys):
    assert main(["schedule", "--name", "cosine", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["k"][:10] == [2, 2, 3, 5, 7, 10, 13, 17, 22, 27]
    assert main(["schedule", "--name", "sine"]) == 2
    assert "schedule: 'sine' is unknown" in capsys.readouterr().err


def test_count(capsys):
    assert main(["count", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["tokenizer/vqgan-f16-k16384"]["params"] == 71_883_403
    assert table["generator/llama-775M"]["params"] == 774_699_520
    assert main(["count"]) == 0
    assert "774,699,520" in capsys.readouterr().out


def test_a_full_disk_and_a_damaged_store_end_with_1(tokenlaw, study, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/disk")

    monkeypatch.setattr(planning, "make_plan", full)
    code, _, err = tokenlaw("plan", study)
    assert (code, err) == (1, "error: [Errno 28] No space left on device: '/disk'\n")


def test_a_slip_in_the_code_is_one_line_too_unless_asked(tokenlaw, study, monkeypatch):
    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(planning, "make_plan", broken)
    code, _, err = tokenlaw("plan", study)
    assert (code, err) == (1, "error: KeyError: 'x' (TOKENLAW_DEBUG=1 shows where)\n")
    monkeypatch.setenv("TOKENLAW_DEBUG", "1")
    code, _, err = tokenlaw("plan", study)
    assert code == 1 and err.startswith("Traceback") and err.endswith("KeyError: 'x'\n")


def test_ctrl_c_ends_with_130_and_says_that_all_is_kept(tokenlaw, study, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "make_plan", interrupted)
    code, _, err = tokenlaw("plan", study)
    assert (code, err) == (130, "interrupted: all is kept; the same command again goes on\n")


def test_a_launch_that_is_interrupted_says_so_once(capsys, study, tmp_path, monkeypatch):
    from tokenlaw.slurm.run_states import Summary

    facts = {"study": "mine", "executor": "local", "total": 3, "done": 1, "diverged": 0}
    lists = dict.fromkeys(("submitted", "failed", "blocked"), ())
    summary = Summary(
        **facts, **lists, elsewhere=0, queued=0, interrupted=True, stopped=None, seconds=1.0
    )
    monkeypatch.setattr("tokenlaw.sweeps.cli.verbs.launch.launched", lambda *_, **__: summary)
    assert main(["launch", study, "--home", str(tmp_path / "home")]) == 130
    out, err = capsys.readouterr()
    assert (out + err).count("interrupted") == 1
    assert out.endswith("interrupted; nothing is lost, the same command goes on from here\n")


@pytest.mark.parametrize(
    "words",
    [
        *("results", "results quickstart", "status quickstart", "fit quickstart", "sync"),
        *("frontier quickstart", "figures quickstart", "report quickstart", "logs abc"),
        *("cancel quickstart", "retry quickstart", "sample abc", "train abc"),
    ],
)
def test_reading_makes_nothing_where_nothing_is(capsys, tmp_path, monkeypatch, words):
    monkeypatch.delenv("TOKENLAW_DB", raising=False)
    home = tmp_path / "nowhere"
    assert main([*words.split(), "--home", str(home)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    assert str(home) in err and not home.exists()


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return {**os.environ, "PYTHONPATH": path}


def test_a_reader_that_has_seen_enough_is_no_error(study, tmp_path):
    command = (
        f"{sys.executable} -m tokenlaw plan {study} --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


HEAVY = ("torch", "pandas", "sqlalchemy", "matplotlib", "scipy", "ray", "submitit", "numpy")


def test_help_imports_nothing_heavy(tmp_path):
    for arguments in ([], ["plan"], ["quickstart"], ["figures"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "tokenlaw", *arguments, "--help"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "tokenlaw.sweeps.cli.app" in imported
        assert imported.isdisjoint(HEAVY)


def table_of_two_arms(path: Path) -> None:
    """A table as of a study: two sizes, six durations, two arms on power laws."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run_id", "arm", "size", "status", "params", "flops_train", "val_loss"])
        for arm, factor in (("vq", 1.0), ("crt", 0.9)):
            for size, params in (("S", 1e6), ("L", 4e6)):
                for step in range(6):
                    flops = params * 10.0 ** (9 + step / 2)
                    loss = factor * 40 * flops**-0.05 * (1 + 0.001 * ((step * 7) % 5))
                    name = f"{arm}-{size}-{step}"
                    writer.writerow([name, arm, size, "done", params, flops, loss])


def test_commands_and_workers_end_without_a_last_collection():
    """Python would look at its end through everything that was imported."""
    told = "import atexit, gc, runpy, sys; atexit.register(lambda: print(gc.get_freeze_count()))\n"
    for module in ("tokenlaw", "tokenlaw.trainer"):
        code = told + f"sys.argv = ['x']; runpy.run_module({module!r}, run_name='__main__')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert int(done.stdout.split()[-1]) > 1000, done


def test_reading_verbs_never_import_torch(study, tmp_path):
    plan = make_plan(grid(axes=()), home=tmp_path)
    plan.write(tmp_path)
    run = plan.runs[0]
    write_run(tmp_path, run, {})
    (RunDir.of(tmp_path, run.kind, run.id).path / "log.jsonl").write_text('{"step":0}\n')
    table_of_two_arms(tmp_path / "table.csv")
    code = f"""
import sys
from tokenlaw.sweeps.cli.app import main
home = ["--home", {str(tmp_path)!r}]
assert main(["sync", *home]) == 0
assert main(["status", "small", *home]) == 0
assert main(["results", "small", "--wide", "--format", "csv", *home]) == 0
assert main(["logs", {run.id!r}, *home]) == 0
assert main(["schedule", "--name", "linear"]) == 0
assert "matplotlib" not in sys.modules
assert main(["fit", "table.csv", "--bootstrap", "10", *home]) == 0
assert main(["frontier", "table.csv", "--bootstrap", "10", *home]) == 0
few = ["--only", "loss_vs_flops", "--bootstrap", "10", "--out", "pictures"]
assert main(["figures", "table.csv", *few, *home]) == 0
assert main(["figures", "table.csv", "--check", "--out", "pictures", *home]) == 0
assert "matplotlib" in sys.modules
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '{"step":0}' in done.stdout
    assert (tmp_path / "pictures" / "loss_vs_flops.png").is_file()


def test_results_in_every_format(tokenlaw, tmp_path):
    import pandas as pd

    home = tmp_path / "home"
    make_plan(grid(), home=home).write(home)
    code, out, _ = tokenlaw("results", "small", "--wide", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert len(rows) == 12
    assert {"arm", "run_id", "val_loss", "flops_train", "size", "commit"} <= set(rows[0])
    code, out, _ = tokenlaw("results", "small", "--wide", "--json")
    assert [row["run_id"] for row in json.loads(out)] == [row["run_id"] for row in rows]
    file = tmp_path / "table.parquet"
    assert tokenlaw("results", "small", "--wide", "--format", "parquet", "--out", str(file))[0] == 0
    assert len(pd.read_parquet(file)) == 12
    code, out, _ = tokenlaw("results", "small", "--wide")
    assert out.splitlines()[0].split()[:3] == ["arm", "size", "iterations"]
    assert out.splitlines()[-1].startswith("12 rows")


def test_frontier_takes_the_known_noise(tokenlaw, tmp_path):
    table = tmp_path / "runs.csv"
    rows = [f"a,{10**k:g},{3 * 10 ** (-0.05 * k):.6f}" for k in range(10, 18)]
    table.write_text("\n".join(["arm,flops_train,val_loss", *rows]) + "\n")

    def width(noise: str) -> float:
        code, out, err = tokenlaw(
            *("frontier", str(table), "--by", "residual", "--bootstrap", "50"),
            *("--noise", noise, "--json"),
        )
        assert code == 0, err
        low, high = json.loads(out)["frontiers"]["a"]["fits"]["straight"]["ci95"]["b"]
        return float(high - low)

    assert width("0.1") > 5 * width("0.01") > 0
    code, _, err = tokenlaw("frontier", str(table), "--noise", "-1")
    assert (code, err.startswith("error: --noise: -1.0 is not allowed")) == (2, True)


def test_a_file_is_no_home_and_folders_of_results_are_made(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    for verb in (["plan", "quickstart"], ["status", "quickstart"], ["results"], ["doctor"]):
        assert main([*verb, "--home", str(file)]) == 2
        assert "error: --home: " in capsys.readouterr().err
    out = tmp_path / "new" / "folder" / "all.csv"
    home = ["--home", str(tmp_path)]
    assert main(["results", "--format", "csv", "--out", str(out), *home]) == 0
    assert out.read_text().startswith("study,")
    assert main(["fit", "quickstart", *home]) == 2
    assert f"'quickstart' has no plan in {tmp_path}, known" in capsys.readouterr().err


def test_logs_follow_only_whole_lines(tokenlaw, tmp_path):
    home = tmp_path / "home"
    plan = make_plan(grid(), home=home)
    folder = RunDir(write_run(home, plan.runs[0], {}))
    folder.log_path.write_text("one\ntwo\nthr")
    code, out, _ = tokenlaw("logs", folder.id[:6], "-n", "1")
    assert code == 0
    assert out.splitlines()[-1] == "two"
    assert f"{folder.kind} {folder.id}: planned" in out


def test_doctor_finds_what_this_machine_has(tokenlaw):
    code, out, _ = tokenlaw("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert checks["disk"]["status"] == "ok"
    assert checks["database"]["status"] == "ok"
    assert checks["metrics.psnr"]["finding"] == "needs no files"
    assert code == (1 if any(c["status"] == "failed" for c in checks.values()) else 0)


def test_doctor_says_when_the_home_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--home", str(tmp_path / "file" / "home"), "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["disk"]["status"] == "failed"
