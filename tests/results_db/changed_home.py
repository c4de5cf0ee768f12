"""Changes a home at random, as people and jobs do, and dumps what a database says of it."""

import json
import multiprocessing
import random
import shutil

from made_home import finish, make_run, planned, value, write_plan
from sqlalchemy import select

from tokenlaw.results_db import record, schema, spool, sync
from tokenlaw.results_db.engine import opened

RUNS = (("tokenizer", "t1"), ("tokenizer", "both"), ("codes", "c1"), ("generator", "g1"))
RUNS += (("generator", "g2"), ("generator", "both"))
STUDIES = ("s1", "s2")


def dump(engine):
    """Every row of every table of results, as (table, rows)."""
    models = (schema.Study, schema.Member, schema.Run, schema.Edge, *schema.OF_A_RUN)
    with engine.connect() as connection:
        return {
            model.__tablename__: sorted(
                json.dumps(list(row), sort_keys=True)
                for row in connection.execute(select(*model.__table__.columns))
            )
            for model in models
        }


def done_again(home, kind, run_id, values, **more):
    """A run whose folder was deleted and that was done once more."""
    run = record.RunDir.of(home, kind, run_id)
    parents = run.config()["parents"]
    shutil.rmtree(run.path)
    finish(make_run(home, kind, run_id, parents=parents), values, **more)
    return run


def check_writers_at_once(home):
    """Processes that do runs again, ingest and sync leave what one sync would."""
    write_plan(home, "s", [planned(f"g{n}", "generator", [("vq", {})]) for n in range(5)])
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_write_at_once, args=(home, number, barrier, results))
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert outcomes == [""] * 4
    with opened(home) as engine:
        sync.ingest(home, engine)
        before = dump(engine)
        sync.sync(home, engine)
        assert dump(engine) == before
    assert len(before["endpoint"]) == 4 and len(before["run"]) == 5


def _write_at_once(home, number, barrier, results):
    try:
        with opened(home) as engine:
            barrier.wait()
            for _ in range(4):
                run = record.RunDir.of(home, "generator", f"g{number}")
                shutil.rmtree(run.path, ignore_errors=True)
                finish(make_run(home, "generator", run.id), [value("p", random.random())])
                (sync.sync if number % 2 else sync.ingest)(home, engine)
        results.put("")
    except BaseException as error:
        results.put(repr(error))
        raise


class ChangedHome:
    """A home and the backup beside it; each change takes its choices from `random`."""

    def __init__(self, folder, random):
        self.home = folder / "home"
        self.home.mkdir()
        self.backup = folder / "backup"
        self.backup.mkdir()
        self.random = random
        self.changes = [
            *(self.finish, self.finish, self.finish, self.delete, self.delete, self.begin),
            *(self.launch, self.lose_config, self.back_up, self.restore, self.merge),
            *(self.plan, self.plan, self.remove_study, self.lose_markers, self.damage),
        ]

    def change(self):
        """One change; returns its name."""
        change = self.random.choice(self.changes)
        change()
        return change.__name__

    def _folder(self):
        return record.RunDir.of(self.home, *self.random.choice(RUNS))

    def _made(self):
        run = self._folder()
        shutil.rmtree(run.path, ignore_errors=True)
        parents = {"codes": "c1"} if run.kind == "generator" else {}
        if self.random.random() < 0.2:
            parents["trunk"] = "g0"
        config = {"data": {"dataset": self.random.choice(["digits", "other"])}}
        config["number"] = self.random.choice([1, 1.0, True])
        make_run(self.home, run.kind, run.id, parents=parents, config=config)
        for _ in range(self.random.randrange(3)):
            record.claim(run, executor="local").finish(self.random.choice(["failed", "preempted"]))
        return run

    def finish(self):
        """A run that is done, often after other attempts, in the place of what was there."""
        run, random = self._made(), self.random
        values = [
            value(metric, float(random.randrange(4)), seed=random.choice([0, 1]))
            for metric in random.sample(["psnr", "ssim", "val_loss"], random.randrange(4))
        ]
        diverged = random.random() < 0.2
        artifacts = [
            {"name": name, "file": f"{name}.npy", "sha256": random.choice("ab") * 64, "bytes": 1}
            for name in random.sample(["x", "y", "z"], random.randrange(3))
        ]
        finish(
            run,
            values,
            status="diverged" if diverged else "done",
            reason="nan" if diverged else None,
            columns={"params": random.randrange(9), "gpu_hours": random.random()},
            artifacts=artifacts,
        )

    def begin(self):
        record.claim(self._made(), executor="local")

    def launch(self):
        self._made()

    def delete(self):
        shutil.rmtree(self._folder().path, ignore_errors=True)

    def lose_config(self):
        self._folder().config_path.unlink(missing_ok=True)

    def back_up(self):
        shutil.rmtree(self.backup)
        shutil.copytree(self.home, self.backup, ignore=shutil.ignore_patterns("*.db*"))

    def restore(self):
        """One folder as it was, without a marker."""
        run = self._folder()
        saved = self.backup / run.kind / run.id
        if saved.is_dir():
            shutil.rmtree(run.path, ignore_errors=True)
            shutil.copytree(saved, run.path)

    def merge(self):
        """`cp -rn`: what this home lacks."""
        for saved in sorted(path for path in self.backup.rglob("*") if path.is_file()):
            target = self.home / saved.relative_to(self.backup)
            if not target.exists() and saved.name != "home.json":
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(saved, target)

    def plan(self):
        random = self.random
        runs = {}
        for kind, run_id in random.sample(RUNS, random.randrange(1, 5)):
            axes = {"seed": random.randrange(2)}
            parents = {"codes": "c1"} if kind == "generator" else {}
            runs[run_id] = planned(
                run_id, kind, [("vq", axes)], parents=parents, params=random.randrange(2)
            )
            if random.random() < 0.5:
                runs[run_id]["config"] = {"data": {"dataset": "planned"}}
        write_plan(self.home, random.choice(STUDIES), list(runs.values()))

    def remove_study(self):
        shutil.rmtree(self.home / "studies" / self.random.choice(STUDIES), ignore_errors=True)

    def lose_markers(self):
        for marker in spool.pending(self.home):
            spool.clear(marker)

    def damage(self):
        run = self._folder()
        path = self.random.choice([run.endpoint_path, run.attempt_path(1), run.config_path])
        if path.exists():
            path.write_text(path.read_text()[:20])

    def differences(self, engine, rebuilt):
        """What two databases say of it otherwise after a sync of each, the second from nothing."""
        sync.sync(self.home, engine)
        sync.sync(self.home, rebuilt)
        first, second = dump(engine), dump(rebuilt)
        return {
            name: (
                sorted(set(first[name]) - set(second[name])),
                sorted(set(second[name]) - set(first[name])),
            )
            for name in first
            if first[name] != second[name]
        }
