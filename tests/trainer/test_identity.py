"""The id of a run: what is in it, what is not, and that it never changes."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tiny

from tokenlaw.trainer.accounting import config as configs
from tokenlaw.trainer.accounting.config import decode_run
from tokenlaw.trainer.accounting.identity import RunIds, id_tree, run_id

# Frozen: resolved configs as earlier versions wrote them into config.json, with their ids. As long
# as the VERSIONs of their parts stand they must decode, and to the same id: another one would give
# every finished run a new name.
FROZEN = json.loads((tiny.ROOT / "tests" / "golden" / "ids.json").read_text())
DATA = FROZEN["tokenizer"]["config"]["data"]
SAMPLING = FROZEN["samples"]["config"]["sampling"]


def identity(name, **changes):
    frozen = FROZEN[name]
    config = decode_run(frozen["kind"], frozen["config"] | changes)
    return run_id(frozen["kind"], config, frozen["parents"])


@pytest.mark.parametrize("name", FROZEN)
def test_ids_are_frozen(name):
    assert identity(name) == FROZEN[name]["id"]


def test_every_kind_is_frozen():
    assert {frozen["kind"] for frozen in FROZEN.values()} == set(configs.KINDS)


def test_ids_are_the_same_in_another_process():
    # Another hash seed and another folder.
    program = (
        "import json, sys\n"
        "from tokenlaw.trainer.accounting.config import decode_run\n"
        "from tokenlaw.trainer.accounting.identity import run_id\n"
        "frozen = json.load(sys.stdin).values()\n"
        "ids = [run_id(f['kind'], decode_run(f['kind'], f['config']), f['parents'])"
        " for f in frozen]\n"
        "print(json.dumps(ids))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(FROZEN),
        capture_output=True,
        text=True,
        cwd="/",
        env=tiny.environment(PYTHONHASHSEED="77"),
        check=True,
    )
    assert json.loads(done.stdout) == [frozen["id"] for frozen in FROZEN.values()]


def test_order_and_spelled_out_defaults_do_not_matter():
    def of(tree):
        return run_id("generator", decode_run("generator", tree), {"codes": "b" * 16})

    tree = tiny.generator()
    assert of(dict(reversed(tree.items()))) == of(tree)
    assert of(tree | {"z_loss": 0.0, "seed": 0, "label_mode": "class"}) == of(tree)
    assert of(configs.to_tree(decode_run("generator", tree))) == of(tree)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("generator", {"seed": 1}),
        ("generator", {"iterations": 5}),
        ("generator", {"batch_size": 16}),
        ("generator", {"numerics": {"precision": "bf16"}}),
        ("generator", {"numerics": {"cpu_threads": 2}}),
        ("generator", {"optim": {**tiny.generator()["optim"], "beta1": 0.8}}),
        ("generator", {"model": {**tiny.MODEL, "rope_cls": "identity"}}),
        ("tokenizer", {"data": DATA | {"digest": "1" * 64}}),
        ("tokenizer", {"data": DATA | {"digest": None}}),
        ("tokenizer", {"quantizer": tiny.part("vq", codebook_size=32, dim=4, beta=0.3)}),
        ("tokenizer", {"quantizer": tiny.part("fsq", levels=[4, 4, 2])}),
        ("tokenizer", {"regularizer": tiny.CRT}),
        ("samples", {"sample_seeds": [0, 2]}),
        ("samples", {"sampling": {"cfg_scale": 1.75}}),
        ("samples", {"sampling": SAMPLING | {"cfg_codebook": "log"}}),
        ("samples", {"sampling": SAMPLING | {"kv_cache": "int8"}}),
    ],
)  # fmt: skip
def test_what_changes_results_changes_the_id(name, change):
    assert identity(name, **change) != FROZEN[name]["id"]


def test_kind_and_parents_are_in_the_id():
    config = decode_run("generator", tiny.generator())
    ids = {
        run_id("generator", config, {"codes": "b" * 16}),
        run_id("generator", config, {"codes": "e" * 16}),
        run_id("generator", config, {}),
        run_id("tokenizer", config, {"codes": "b" * 16}),
    }
    assert len(ids) == 4


def test_a_parts_version_is_in_the_id(monkeypatch):
    from tokenlaw.trainer.quantizers import vq

    part = dict(FROZEN["tokenizer"]["config"]["quantizer"])
    part.pop("version")
    assert identity("tokenizer", quantizer=part) == FROZEN["tokenizer"]["id"]
    configs._decoded_parts.clear()
    monkeypatch.setattr(vq, "VERSION", 2)
    try:
        assert identity("tokenizer", quantizer=part) != FROZEN["tokenizer"]["id"]
    finally:
        configs._decoded_parts.clear()


def test_a_field_added_later_leaves_old_ids():
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Before:
        width: int = 8

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class After:
        width: int = 8
        # Its default may change; runs that hold the frozen value keep their ids.
        depth: int = dataclasses.field(default=3, metadata={"id_default": 2})

    assert id_tree(After(depth=2)) == id_tree(Before())
    assert id_tree(After()) == {"width": 8, "depth": 3}


def test_a_field_that_is_in_no_id_does_not_change_one():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Inner:
        place: int = dataclasses.field(metadata={"in_id": False})
        depth: int = dataclasses.field(default=2, metadata={"id_default": 2})

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Outer:
        place: int = dataclasses.field(metadata={"in_id": False})
        width: int = 8
        inner: Inner

    ids = RunIds()
    made = {
        make("generator", Outer(place=place, inner=Inner(place=place, depth=depth)), {}): depth
        for place in (0, 1)
        for depth in (2, 3)
        for make in (ids.of, run_id)
    }
    assert sorted(made.values()) == [2, 3]


@pytest.mark.parametrize(
    ("changes", "clipped"),
    [
        ({}, False),
        ({"regularizer": tiny.CRT}, False),
        ({"adversarial": None, "optim": {"clip": 1.0}}, False),
        ({"optim": {"clip": 1.0}}, True),
        ({"adversarial": None, "regularizer": tiny.CRT, "optim": {"clip": 1.0}}, True),
        ({"adversarial": {**tiny.PATCHGAN, "optim": {"clip": 0.5}}}, True),
        ({"adversarial": None, "regularizer": {**tiny.CRT, "optim": {"clip": 0.5}}}, True),
        ({"adversarial": {**tiny.PATCHGAN, "optim": {}}, "optim": {"clip": 1.0}}, False),
    ],
)
def test_tokenizers_whose_parts_are_clipped_are_new_runs(changes, clipped):
    # Such a clip did nothing when ids of that form were made.
    tree = id_tree(decode_run("tokenizer", tiny.tokenizer(**changes)))
    assert ("clips_parts" in tree) is clipped
    assert list(tree) == sorted(tree)


def test_many_ids_are_those_that_are_made_alone():
    def config(**changes):
        return decode_run("generator", tiny.generator() | changes)

    def segment(start):
        optim = {**tiny.generator()["optim"], "schedule": "constant"}
        return config(optim=optim, trunk={"role": "segment", "start": start})

    ids, codes = RunIds(), {"codes": "b" * 16}
    # Equal values whose texts differ: a part may compute with the sign of zero.
    for z_loss in (0.0, -0.0, 0.0):
        made = config(z_loss=z_loss)
        assert ids.of("generator", made, codes) == run_id("generator", made, codes)
    first = ids.of("generator", segment(0), codes)
    assert first == ids.of("generator", segment(1), {**codes, "trunk": "c" * 16})


def test_nothing_that_is_a_setting_is_in_a_config():
    from tokenlaw.trainer.run import Settings

    settings = {field.name for field in dataclasses.fields(Settings)}
    for cls in configs.CONFIGS.values():
        assert not settings & {field.name for field in dataclasses.fields(cls)}


def test_only_new_fields_have_an_id_default():
    # It is for fields that were added after runs existed. These are they.
    known = {("EvaluationConfig", "model_resolution"), ("TokenizerConfig", "trunk"),
             ("GeneratorConfig", "trunk"), ("GeneratorConfig", "float8_ffn"),
             ("SamplingConfig", "cfg_codebook"), ("DataConfig", "labels"),
             ("SamplingConfig", "kv_cache"), ("EvaluationConfig", "label_prior"),
             ("OptimConfig", "weight_decay_end"), ("OptimConfig", "decay_embeddings"),
             ("LlamaConfig", "adaln_scale_init")}  # fmt: skip
    found = {
        (cls.__name__, field.name)
        for cls in [*configs.CONFIGS.values(), configs.LlamaConfig, configs.OptimConfig,
                    configs.DataConfig, configs.NumericsConfig, configs.SamplingConfig]
        for field in dataclasses.fields(cls)
        if "id_default" in field.metadata
    }  # fmt: skip
    assert found == known
