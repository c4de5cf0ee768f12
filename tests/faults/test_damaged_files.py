"""Files of finished runs that were damaged, or swapped with those of another run of equal shapes:
whoever reads one refuses it, in one line that names it and says what to do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny

from tokenlaw.results_db import read, recorded_files
from tokenlaw.results_db.durable import MisplacedError, sha256_file, write_json
from tokenlaw.results_db.record import RunDir
from tokenlaw.results_db.strict_json import DamagedError
from tokenlaw.sweeps.cli.app import main
from tokenlaw.trainer.accounting import trunks
from tokenlaw.trainer.accounting.config import decode_run, to_tree
from tokenlaw.trainer.kinds import codes as encode
from tokenlaw.trainer.loop import code_sets

WSD = {"schedule": "wsd", "decay_share": 0.25, "warmup_iterations": 1}
TREE = tiny.generator(iterations=4, optim={**tiny.ADAM, **WSD})


def study(home: Path, seed: int) -> dict[str, RunDir]:
    """Finished runs of every kind, and runs that read them, not begun."""
    found = {}
    found["extractor"] = tiny.done(home, "extractor", tiny.extractor(seed=seed, iterations=1))
    tree = tiny.varied_tokenizer(seed=seed, iterations=2)
    found["tokenizer"] = tokenizer = tiny.done(home, "tokenizer", tree)
    above = {"tokenizer": tokenizer}
    found["codes"] = codes = tiny.done(home, "codes", tiny.codes(num_train=48), above)
    whole = decode_run("generator", {**TREE, "seed": seed})
    parents = {"codes": codes}
    segment = to_tree(trunks.segment(whole, start=0, end=3))
    found["segment"] = trunk = tiny.done(home, "generator", segment, parents)
    found["generator"] = tiny.done(home, "generator", tiny.generator(seed=seed), parents)
    branch = to_tree(trunks.branch(whole))
    images = {**above, "extractor": found["extractor"]}
    samples = {**images, **parents, "generator": found["generator"]}
    laid_out = {
        "encoding": ("codes", tiny.codes(num_train=8), above),
        "training": ("generator", tiny.generator(seed=9), parents),
        "branch": ("generator", branch, {**parents, "trunk": trunk}),
        "reconstructing": ("evaluation", tiny.reconstructions(num_samples=8), images),
        "sampling": ("evaluation", tiny.samples(num_samples=2, sample_seeds=[0]), samples),
    }
    return found | {name: tiny.lay_out(home, *run) for name, run in laid_out.items()}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return study(home, 0), study(home, 1)


def flipped(content: bytes) -> bytes:
    """One bit changed: of the last hash in JSON, else of a number that is a setting; or at the end
    of another file."""
    place = len(content) - 1
    if content.startswith(b"{"):
        places = [match.start() for match in re.finditer(rb'(?<=")[0-9a-f]{64}"', content)]
        numbers = re.finditer(rb'(?<="batch_size":)\d|(?<="step":)\d|(?<=":0\.)\d', content)
        place = places[-1] if places else next(numbers).start()
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "one bit": flipped,
    "zeros": lambda content: bytes(len(content)),
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}

# run, its file, the run that reads it
FILES = [
    ("extractor", "final/extractor.safetensors", "reconstructing"),
    ("extractor", "final/manifest.json", "reconstructing"),
    ("extractor", "artifacts/train_mu.npy", "sampling"),
    ("extractor", "artifacts/train_sigma.npy", "sampling"),
    ("extractor", "artifacts/val_features.npy", "reconstructing"),
    ("extractor", "endpoint.json", "reconstructing"),
    ("extractor", "config.json", "reconstructing"),
    ("tokenizer", "final/autoencoder.safetensors", "encoding"),
    ("tokenizer", "final/state.json", "reconstructing"),
    ("tokenizer", "final/manifest.json", "sampling"),
    ("tokenizer", "endpoint.json", "encoding"),
    ("tokenizer", "config.json", "encoding"),
    ("codes", "codes/train-00000.npy", "training"),
    ("codes", "codes/val-00000.npy", "branch"),
    ("codes", "codes/labels-train.npy", "training"),
    ("codes", "codes/labels-val.npy", "training"),
    ("codes", "codes/manifest.json", "sampling"),
    ("codes", "endpoint.json", "training"),
    ("codes", "config.json", "sampling"),
    ("generator", "final/generator.safetensors", "sampling"),
    ("generator", "final/manifest.json", "sampling"),
    ("generator", "endpoint.json", "sampling"),
    ("generator", "config.json", "sampling"),
    ("segment", "final/generator.optimizer.safetensors", "branch"),
    ("segment", "final/manifest.json", "branch"),
    ("segment", "config.json", "branch"),
]
UNREAD = [("tokenizer", "endpoint.json"), ("generator", "endpoint.json")]
# These hold the same bytes in both studies: the images are the same, and the iterations.
EQUAL = ("codes/labels-train.npy", "codes/labels-val.npy", "final/state.json")


def refusal(reader: RunDir) -> str:
    """The one line with which a run refuses what it reads."""
    begun = reader.log_path.exists()
    outcome = tiny.do(reader)
    assert outcome.outcome == "failed", outcome
    assert reader.log_path.exists() == begun, "it was noticed too late"
    assert outcome.error is not None and "\n" not in outcome.error
    assert not reader.endpoint_path.exists()
    return outcome.error


# Where an endpoint lists no file that is read, an altered number shows to `tokenlaw doctor` alone.
CASES = [
    (*file, damage)
    for file in FILES
    for damage in DAMAGES
    if damage != "one bit" or file[:2] not in UNREAD
]


@pytest.mark.parametrize(("run", "file", "reader", "damage"), CASES)
def test_damaged(run, file, reader, damage, studies):
    ours, _ = studies
    path = ours[run].path / file
    content = path.read_bytes()
    path.write_bytes(DAMAGES[damage](content))
    try:
        message = refusal(ours[reader])
    finally:
        path.write_bytes(content)
    # A wrong hash in the endpoint or the manifest shows in the file that it is of.
    named = ours[run].path if damage == "one bit" and file.endswith(".json") else path
    assert str(named) in message and "launch" in message


@pytest.mark.parametrize(("run", "file", "reader"), [f for f in FILES if f[1] not in EQUAL])
def test_swapped_with_another_runs(run, file, reader, studies):
    first, second = (study[run].path / file for study in studies)
    assert first.read_bytes() != second.read_bytes()
    exchange(first, second)
    try:
        messages = [refusal(study[reader]) for study in studies]
    finally:
        exchange(first, second)
    if file.endswith("manifest.json"):
        first, second = first.parent, second.parent
    assert str(first) in messages[0] and str(second) in messages[1]
    assert all("launch" in message for message in messages)


FOLDERS = [
    ("extractor", "final", "reconstructing"),
    ("tokenizer", "final", "encoding"),
    ("tokenizer", "final", "sampling"),
    ("codes", "codes", "training"),
    ("codes", "codes", "sampling"),
    ("generator", "final", "sampling"),
    ("segment", "final", "branch"),
    ("tokenizer", "", "encoding"),
]


@pytest.mark.parametrize(("run", "folder", "reader"), FOLDERS)
def test_a_swapped_folder_names_both_runs(run, folder, reader, studies):
    first, second = (study[run].path / folder for study in studies)
    exchange(first, second)
    try:
        messages = [refusal(study[reader]) for study in studies]
    finally:
        exchange(first, second)
    for message, ours, other in zip(messages, studies, studies[::-1], strict=True):
        assert str(ours[run].path / folder) in message and "launch" in message
        assert f"belongs to {ours[run].kind} {other[run].id}, not to" in message
        assert f"{ours[run].kind} {ours[run].id};" in message


def exchange(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def test_swapped_artifacts_and_attempts(studies):
    first, second = (study["generator"] for study in studies)
    exchange(first.artifacts_path, second.artifacts_path)
    exchange(first.attempts_path, second.attempts_path)
    try:
        with pytest.raises(DamagedError, match=r"val_loss_per_position.npy: .*; to make it anew"):
            read.artifact(first.id, "val_loss_per_position.npy", first.home)
        # Records of attempts are counted, and nothing else is read from them.
        assert main(["doctor", "--verify", "--home", str(first.home)]) == 1
    finally:
        exchange(first.artifacts_path, second.artifacts_path)
        exchange(first.attempts_path, second.attempts_path)


# ------------------------------------------------------------------------------ runs on their way


@pytest.fixture
def stopped(studies, tmp_path):
    """Two runs of one shape that were stopped with two checkpoints each."""
    runs = []
    for number, ours in enumerate(studies):
        home = tmp_path / str(number)
        parent = RunDir.of(home, "codes", ours["codes"].id)
        shutil.copytree(ours["codes"].path, parent.path)
        shutil.copytree(ours["tokenizer"].path, home / "tokenizer" / ours["tokenizer"].id)
        tree = tiny.generator(iterations=6)
        run = tiny.lay_out(home, "generator", tree, {"codes": parent}, checkpoint_steps=1)
        assert tiny.do(run, tiny.StopAfter(4)).outcome == "preempted"
        runs.append(run)
    return runs


@pytest.mark.parametrize("which", ["the newest", "the older", "all"])
def test_swapped_checkpoints(which, stopped):
    first, second = (sorted(run.checkpoints_path.iterdir()) for run in stopped)
    assert len(first) == 2 and [p.name for p in first] == [p.name for p in second]
    if which == "all":
        exchange(*(run.checkpoints_path for run in stopped))
    else:
        exchange(first[which == "the newest"], second[which == "the newest"])
    for run, other in zip(stopped, stopped[::-1], strict=True):
        if which == "the older":  # never read again: harmless
            assert tiny.do(run, tiny.StopAfter(1)).outcome == "preempted"
            continue
        message = refusal(run)
        assert f"belongs to generator {other.id}, not to generator {run.id};" in message
        assert "move it back" in message
        assert len(list(run.checkpoints_path.iterdir())) == 2  # nobody's state is dropped


def test_a_final_folder_of_another_run_is_not_dropped(stopped):
    first, second = stopped
    assert tiny.do(second).outcome == "done"
    shutil.copytree(second.path / "final", first.path / "final")
    assert f"belongs to generator {second.id}" in refusal(first)
    assert sha256_file(first.path / "final" / "manifest.json")


@pytest.fixture
def half_encoded(studies, tmp_path, monkeypatch):
    """Two codes runs of equal shapes, each stopped after three shards."""
    monkeypatch.setattr(encode, "SHARD_IMAGES", 50)
    runs = []
    for number, ours in enumerate(studies):
        home = tmp_path / str(number)
        parent = RunDir.of(home, "tokenizer", ours["tokenizer"].id)
        shutil.copytree(ours["tokenizer"].path, parent.path)
        tree = tiny.codes(num_train=250, crops="center", batch_size=50)
        run = tiny.lay_out(home, "codes", tree, {"tokenizer": parent})
        assert tiny.do(run, tiny.StopAfter(4)).outcome == "preempted"
        runs.append(run)
    return runs


@pytest.mark.parametrize("what", ["shard", "shard and note", "note", "all"])
def test_swapped_shards_of_unfinished_codes(what, half_encoded):
    names = {"shard": ("{}",), "note": ("{}.json",), "shard and note": ("{}", "{}.json")}
    if what == "all":
        exchange(*(run.path / "codes" for run in half_encoded))
    else:
        for name in names[what]:
            file = name.format("train-00001.npy")
            exchange(*(run.path / "codes" / file for run in half_encoded))
    for run, other in zip(half_encoded, half_encoded[::-1], strict=True):
        if what == "shard":  # made again, as one without a note is
            assert tiny.do(run).outcome == "done"
            assert (
                recorded_files.code_files(run, recorded_files.codes_manifest(run), ["train", "val"])
                == []
            )
        else:
            assert f"belongs to codes {other.id}, not to codes {run.id};" in refusal(run)


@pytest.mark.parametrize("damage", ["empty", "not an object", "whose it is unknown"])
def test_a_damaged_note_costs_one_shard(damage, half_encoded):
    run, _ = half_encoded
    note = run.path / "codes" / "train-00001.npy.json"
    entry = json.loads(note.read_text())
    assert entry.pop("run") == {"kind": "codes", "id": run.id}
    content = {"empty": "", "not an object": "[]", "whose it is unknown": json.dumps(entry)}
    note.write_text(content[damage])
    shards = [note.with_name(f"train-0000{number}.npy") for number in (0, 1)]
    before = [shard.stat().st_mtime_ns for shard in shards]
    assert tiny.do(run).outcome == "done"
    assert [s.stat().st_mtime_ns == t for s, t in zip(shards, before, strict=True)] == [True, False]


# --------------------------------------------------------------------------------- what they say


@pytest.mark.parametrize(
    ("run", "file"),
    [("codes", "codes/labels-train.npy"), ("tokenizer", "final/autoencoder.safetensors")],
)
def test_what_the_message_says_to_do_helps(run, file, studies, tmp_path):
    damaged = RunDir.of(tmp_path, studies[0][run].kind, studies[0][run].id)
    for name in ("tokenizer", "codes"):
        shutil.copytree(studies[0][name].path, tmp_path / name / studies[0][name].id)
    reader = tiny.lay_out(
        tmp_path,
        *(
            ("generator", tiny.generator(seed=9), {"codes": damaged})
            if run == "codes"
            else ("codes", tiny.codes(num_train=8), {"tokenizer": damaged})
        ),
    )
    path = damaged.path / file
    path.write_bytes(flipped(path.read_bytes()))
    assert f"remove {damaged.endpoint_path} and launch again" in refusal(reader)
    damaged.endpoint_path.unlink()
    assert tiny.do(damaged).outcome == "done"
    assert tiny.do(reader).outcome == "done"
    tiny.assert_same(damaged, studies[0][run])


def test_the_damaged_endpoint_of_the_run_itself_is_written_anew(studies, tmp_path):
    run = RunDir.of(tmp_path, "tokenizer", studies[0]["tokenizer"].id)
    shutil.copytree(studies[0]["tokenizer"].path, run.path)
    run.endpoint_path.write_bytes(b"{")
    assert tiny.do(run).outcome == "done"
    tiny.assert_same(run, studies[0]["tokenizer"])
    assert (run.path / "endpoint.damaged-002.json").read_bytes() == b"{"


# ----------------------------------------------------------------------------- homes made before


def test_homes_whose_folders_do_not_say_whose_they_are(studies, tmp_path, capsys):
    shutil.copytree(studies[0]["codes"].home, tmp_path / "home")
    ours = {name: RunDir.of(tmp_path / "home", r.kind, r.id) for name, r in studies[0].items()}
    for path in (tmp_path / "home").glob("*/*/final/manifest.json"):
        manifest = json.loads(path.read_text())
        assert set(manifest["meta"].pop("run")) == {"kind", "id"}
        write_json(path, manifest)
    path = ours["codes"].path / "codes" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert sorted(manifest.pop("labels")) == ["train", "val"]
    assert manifest.pop("run") == {"kind": "codes", "id": ours["codes"].id}
    write_json(path, manifest)
    endpoint = json.loads(ours["codes"].endpoint_path.read_text())
    (listed,) = [e for e in endpoint["artifacts"] if e["name"] == "codes-manifest"]
    listed |= {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    write_json(ours["codes"].endpoint_path, endpoint)
    for name in ("encoding", "training", "branch", "reconstructing", "sampling"):
        assert tiny.do(ours[name]).outcome == "done", name
    said = [line for line in ours["training"].log_path.read_text().splitlines() if "verif" in line]
    assert len(said) == 1 and "labels-train.npy, labels-val.npy cannot be verified" in said[0]
    # Another run's is noticed there as well: the endpoint has the hash of the manifest.
    shutil.copy(studies[1]["codes"].path / "codes" / "manifest.json", path)
    with pytest.raises(MisplacedError):
        code_sets.Codes(ours["codes"])


# --------------------------------------------------------------------------------- tokenlaw doctor


def test_doctor_reads_everything(studies, capsys):
    ours, _ = studies
    home = ours["codes"].home
    assert main(["doctor", "--verify", "--home", str(home)]) == 0
    assert "0 files damaged" in capsys.readouterr().out
    files = [ours[run].path / file for run, file, _ in FILES if "json" not in file]
    newest = sorted(ours["extractor"].checkpoints_path.iterdir())[-1]
    files += [ours[run].path / file for run, file in UNREAD]
    files += [newest / "state.json", ours["codes"].artifacts_path / "entropy.npz"]
    before = {path: path.read_bytes() for path in files}
    try:
        for path, content in before.items():
            path.write_bytes(flipped(content))
        assert main(["doctor", "--verify", "--home", str(home)]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert main(["doctor", "--verify", "--json", "--home", str(home)]) == 1
        document = json.loads(capsys.readouterr().out)
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert lines[:-1] == [f"damaged {line}" for line in document["damaged"]]
    assert lines[-1].endswith(f"{len(files)} files damaged")
    assert sorted(line.split(": ")[0] for line in document["damaged"]) == sorted(map(str, files))
    assert all("launch again" in line or "remove it" in line for line in document["damaged"])


def test_doctor_names_configs_endpoints_and_attempts(studies, capsys):
    ours, other = studies
    pairs = [
        (ours["generator"].config_path, other["generator"].config_path),
        (ours["tokenizer"].endpoint_path, other["tokenizer"].endpoint_path),
        (ours["codes"].attempt_path(1), other["codes"].attempt_path(1)),
    ]
    for pair in pairs:
        exchange(*pair)
    try:
        assert main(["doctor", "--verify", "--json", "--home", str(ours["codes"].home)]) == 1
        damaged = json.loads(capsys.readouterr().out)["damaged"]
    finally:
        for pair in pairs:
            exchange(*pair)
    found = {line.split(": ")[0] for line in damaged}
    assert found == {str(path) for pair in pairs for path in pair}


def test_every_reader_is_content_in_the_end(studies):
    # Else those above would have refused for another reason.
    for name in ("encoding", "training", "branch", "reconstructing", "sampling"):
        assert tiny.do(studies[0][name]).outcome == "done", name
