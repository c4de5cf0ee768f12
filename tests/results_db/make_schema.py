"""Writes schemas/NNNN.sql, a small database as the newest schema holds it, for later versions to
upgrade. Run it once for each new version, before the next one exists.

    python tests/results_db/make_schema.py
"""

import sqlite3
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from made_home import finish, make_run, planned, value, write_plan  # noqa: E402

from tokenlaw.results_db import engine, sync  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        runs = []
        for arm, loss in (("vq", 2.5), ("crt", 2.25)):
            parents = {"codes": "codes"}
            run = make_run(home, "generator", f"gen-{arm}-S", parents=parents)
            values = [value("val_loss", loss, "nats/token") | {"better": "lower"}]
            finish(run, values, columns={"params": 7})
            axes = {"size": "S"}
            runs.append(planned(run.id, "generator", [(arm, axes)], parents=parents))
        run = make_run(home, "codes", "codes")
        artifact = {"name": "a", "file": "a.npy", "sha256": "0" * 64, "bytes": 1}
        finish(run, [value("code_entropy", 5.0)], artifacts=[artifact])
        runs.append(planned("codes", "codes", [("vq", {}), ("crt", {})]))
        write_plan(home, "old", runs)
        with engine.opened(home) as opened:
            assert sync.ingest(home, opened).ok
        connection = sqlite3.connect(Path(home) / "tokenlaw.db")
        target = Path(__file__).parent / "schemas" / f"{engine.HEAD}.sql"
        target.write_text("\n".join(connection.iterdump()) + "\n")
        connection.close()


if __name__ == "__main__":
    main()
