"""Differences between the images of a plan and those of the study's runs that are done."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from ..results_db.plan_file import current_plan_path, read_plan, study_names
from ..results_db.record import RunDir
from .data_facts import DataSet

MOST_RUNS = 200  # of the plan before, asked if they are done
_COUNTS = {"train": "training images", "val": "validation images"}


def changes(
    home: str | os.PathLike[str], study: str, run_ids: Collection[str], sets: Sequence[DataSet]
) -> dict[str, Any] | None:
    """Compare the data of a plan with those of the plan before, if runs of that are done.

    Returns None when there is no difference; else `kinds`, of data set, classes, counts, content,
    and a `text`. `run_ids` are the runs of the plan.
    """
    path = current_plan_path(home, study) if study in study_names(home) else None
    if path is None or any(data.digest is None for data in sets):
        return None
    before = read_plan(path)
    others = (run for run in before.runs if run.id not in run_ids and run.kind != "generator")
    folders = (RunDir.of(home, run.kind, run.id) for run in islice(others, MOST_RUNS))
    done = next((folder for folder in folders if folder.endpoint_path.is_file()), None)
    if done is None:
        return None
    known = {data.digest for data in sets}
    for entry in before.data or (_of_config(done.config()["config"]["data"]),):
        if entry["digest"] is None or entry["digest"] in known:
            continue
        present = next((data for data in sets if data.name == entry["name"]), sets[0])
        differences = _differences(entry, present)
        text = "; ".join(words for _, words in differences)
        return {
            "kinds": [kind for kind, _ in differences],
            "text": f"data: the images differ from those of runs that are done: {text}",
        }
    return None


def _of_config(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the config of a run tells of its data, as an entry of a plan file."""
    dataset = data["dataset"]
    return {
        "name": dataset["name"] if isinstance(dataset, Mapping) else dataset,
        "classes": data["num_classes"],
        "train": data["num_train"],
        "val": data["num_val"],
        "digest": data["digest"],
        "labels": data.get("labels"),
        "class_names": None,
    }


def _differences(entry: Mapping[str, Any], present: DataSet) -> list[tuple[str, str]]:
    found = []
    now = present.to_json()
    if entry["name"] != now["name"]:
        found.append(("data set", f"data set {now['name']}, was {entry['name']}"))
    if entry["classes"] != now["classes"]:
        found.append(("classes", f"{now['classes']} classes, were {entry['classes']}"))
    elif list(entry["labels"] or ()) != list(now["labels"] or ()):
        found.append(("classes", "other label ids"))
    elif entry["class_names"] is not None:
        pairs = zip(now["class_names"], entry["class_names"], strict=False)
        if renamed := [(new, old) for new, old in pairs if new != old]:
            found.append(("classes", f"class {renamed[0][0]!r}, was {renamed[0][1]!r}"))
    counts = [
        f"{now[name]} {words}, were {entry[name]}"
        for name, words in _COUNTS.items()
        if now[name] != entry[name]
    ]
    if counts:
        found.append(("counts", "; ".join(counts)))
    found.append(("content", f"digest {now['digest'][:12]}, was {entry['digest'][:12]}"))
    return found
