"""Trunks: a branch is the run trained alone, bit for bit, however the trunk was cut."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import tiny

from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.trainer.accounting import trunks
from tokenlaw.trainer.accounting.config import decode_run, to_tree
from tokenlaw.trainer.accounting.config import part as config_part
from tokenlaw.trainer.accounting.identity import run_id

WSD = {"schedule": "wsd", "decay_share": 0.25, "warmup_iterations": 1}
GENERATOR = tiny.generator(optim={**tiny.ADAM, **WSD, "weight_decay": 0.05, "clip": 1.0})
# The GAN, CRT and the average of weights each have state of their own.
TOKENIZER = tiny.crt(optim={"name": "adam", **tiny.ADAM, **WSD}, ema_decay=0.9)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return home, tiny.codes_chain(home)[1]


def config_of(kind, tree, **changes):
    return decode_run(kind, {**tree, **changes})


def trained(home, kind, config, parents) -> RunDir:
    return tiny.done(home, kind, to_tree(config), parents)


def trunk(home, kind, config, ends, parents) -> list[RunDir]:
    """Finished segments that end where `ends` says."""
    made: list[RunDir] = []
    for start, end in zip((0, *ends), ends, strict=False):
        above = {trunks.ROLE: made[-1]} if made else {}
        segment = trunks.segment(config, start=start, end=end)
        made.append(trained(home, kind, segment, {**parents, **above}))
    return made


def assert_branch_is(branch: RunDir, alone: RunDir) -> None:
    found, expected = tiny.outputs(branch), tiny.outputs(alone)
    assert found == expected and "final/manifest.json" not in found and len(found) >= 2
    one, other = read_endpoint(branch), read_endpoint(alone)
    assert one is not None and other is not None
    assert one["values"] == other["values"] and one["values"]
    columns = {**one["columns"], **dict.fromkeys(VARYING)}
    assert columns == {**other["columns"], **dict.fromkeys(VARYING)}
    start = decode_run(branch.kind, branch.config()["config"]).trunk.start
    assert 0 < start < len(tiny.log_entries(alone))
    assert tiny.log_entries(branch) == tiny.log_entries(alone)[start:]


VARYING = ("trunk_id", "flops_marginal", "seconds_train", "gpu_hours")


def test_branches_of_generators_are_the_runs_trained_alone(chain):
    home, codes = chain
    parents = {"codes": codes}
    short = config_of("generator", GENERATOR, iterations=8)
    long = config_of("generator", GENERATOR, iterations=12)
    assert [trunks.branch_point(short), trunks.branch_point(long)] == [6, 9]
    segments = trunk(home, "generator", long, (2, 6, 9), parents)
    for config, segment in ((short, segments[1]), (long, segments[2])):
        branch = trained(home, "generator", trunks.branch(config), {**parents, "trunk": segment})
        assert_branch_is(branch, trained(home, "generator", config, parents))


def test_branches_of_tokenizers_are_the_runs_trained_alone(tmp_path):
    config = config_of("tokenizer", TOKENIZER, iterations=8)
    segments = trunk(tmp_path, "tokenizer", config, (1, 6), {})  # the GAN starts at iteration 1
    branch = trained(tmp_path, "tokenizer", trunks.branch(config), {"trunk": segments[1]})
    assert_branch_is(branch, trained(tmp_path, "tokenizer", config, {}))
    # Codes are made with it as with any tokenizer.
    codes = tiny.done(tmp_path, "codes", tiny.codes(), {"tokenizer": branch})
    columns = endpoint(codes)["columns"]
    assert columns["flops_ancestors"] == endpoint(branch)["columns"]["flops_train"]


def test_a_stopped_branch_ends_the_same(chain, tmp_path):
    home, codes = chain
    config = config_of("generator", GENERATOR, iterations=8, seed=3)
    (segment,) = trunk(home, "generator", config, (6,), {"codes": codes})
    parents = {"codes": codes, "trunk": segment}
    calm = trained(home, "generator", trunks.branch(config), parents)
    other = link_home(chain, tmp_path)
    whole = to_tree(trunks.segment(config, start=0, end=6))
    run_dir = tiny.lay_out(other, "generator", whole, {"codes": codes})
    assert tiny.do(run_dir, tiny.StopAfter(3)).outcome == "preempted"
    assert tiny.do(run_dir).outcome == "done"
    tiny.assert_same(run_dir, segment)
    run_dir = tiny.lay_out(other, "generator", to_tree(trunks.branch(config)), parents)
    for polls in (0, 1):
        assert tiny.do(run_dir, tiny.StopAfter(polls)).outcome == "preempted"
    assert tiny.do(run_dir).outcome == "done"
    tiny.assert_same(run_dir, calm)


# ------------------------------------------------------------------------------------- accounting


def endpoint(run_dir: RunDir) -> dict:
    found = read_endpoint(run_dir)
    assert found is not None
    return found


def test_both_accountings(chain):
    home, codes = chain
    config = config_of("generator", GENERATOR, iterations=12, seed=4)
    first, second = trunk(home, "generator", config, (6, 9), {"codes": codes})
    branch = trained(home, "generator", trunks.branch(config), {"codes": codes, "trunk": second})
    alone = endpoint(trained(home, "generator", config, {"codes": codes}))["columns"]
    assert alone["flops_marginal"] == alone["flops_train"] > 0
    assert alone["trunk_id"] is None
    columns = [endpoint(run)["columns"] for run in (first, second, branch)]
    per_iteration = alone["flops_train"] / 12
    assert [c["flops_train"] for c in columns] == [per_iteration * n for n in (6, 9, 12)]
    assert [c["flops_marginal"] for c in columns] == [per_iteration * n for n in (6, 3, 3)]
    assert len({c["trunk_id"] for c in columns}) == 1 and columns[0]["trunk_id"]
    for c in columns:  # the trunk is in flops_train, so it is not above the run once more
        assert c["flops_ancestors"] == alone["flops_ancestors"] > 0
        assert c["flops_total"] == c["flops_train"] + c["flops_ancestors"]
    assert endpoint(first)["values"] == []  # a segment is no result


def test_marginal_flops_of_a_tokenizer_know_when_its_discriminator_starts():
    from tokenlaw.trainer.accounting import flops

    gan = config_part("patchgan", ndf=4, n_layers=1, start_iteration=5, ramp_iterations=1)
    config = config_of("tokenizer", tiny.tokenizer(adversarial=gan, optim=WSD), iterations=8)
    whole = flops.tokenizer_flops_train(config)
    branch = trunks.branch(config)
    segment = trunks.segment(config, start=0, end=6)
    assert flops.tokenizer_flops_train(branch) == whole
    assert flops.tokenizer_flops_shared(segment) == flops.tokenizer_flops_shared(config) == 0
    assert flops.tokenizer_flops_shared(branch) == flops.tokenizer_flops_train(segment)
    without = dataclasses.replace(branch, adversarial=None)
    cost = flops.tokenizer_cost(config).discriminator.macs
    assert cost > 0
    # One of the first six iterations has the discriminator, and both of the decay.
    share = 2 * gan_passes(config) * cost * config.batch_size
    extra = flops.tokenizer_flops_shared(branch) - flops.tokenizer_flops_shared(without)
    assert extra == share
    assert whole - flops.tokenizer_flops_train(without) == 3 * share


def gan_passes(config) -> int:
    return config.adversarial.config.passes


# --------------------------------------------------------------------------------------- identity


def test_the_id_of_a_segment_says_where_it_ends():
    config = config_of("generator", GENERATOR, iterations=12)
    codes = {"codes": "c" * 16}
    ids = {
        run_id("generator", trunks.segment(config, start=start, end=9), parents)
        for start, parents in (
            (0, codes),
            (4, {**codes, "trunk": "a"}),
            (6, {**codes, "trunk": "b"}),
        )
    }
    assert len(ids) == 1
    other = trunks.segment(config, start=0, end=8)
    assert run_id("generator", other, codes) not in ids
    branches = {run_id("generator", trunks.branch(config), {**codes, "trunk": t}) for t in "ab"}
    assert len(branches) == 2  # a branch is made from a state, so its parent counts
    alone = run_id("generator", config, codes)
    assert alone not in ids | branches


def test_runs_that_differ_in_length_and_decay_share_a_trunk():
    codes = {"codes": "c" * 16}

    def trunk_of(**changes):
        tree = {**GENERATOR, "iterations": 12, **changes}
        return trunks.trunk_id("generator", trunks.branch(config_of("generator", tree)), codes)

    optim = GENERATOR["optim"]
    same = trunk_of()
    assert trunk_of(iterations=100) == same
    assert trunk_of(optim={**optim, "decay_share": 0.5, "decay_shape": "linear"}) == same
    assert trunk_of(optim={**optim, "lr_end_share": 0.1}) == same
    assert trunk_of(seed=1) != same
    assert trunk_of(optim={**optim, "lr_peak": 2e-3}) != same
    config = config_of("generator", GENERATOR, iterations=12)
    assert trunks.trunk_id("generator", config, codes) is None
    segment = trunks.segment(config, start=3, end=5)
    assert trunks.trunk_id("generator", segment, {**codes, "trunk": "x"}) == same


def test_branch_points():
    def point(**changes):
        return trunks.branch_point(config_of("tokenizer", TOKENIZER, **changes))

    optim = TOKENIZER["optim"]
    assert point(iterations=8) == 6
    assert point(iterations=8, optim={**optim, "schedule": "cosine"}) == 0
    assert point(iterations=8, optim={**optim, "decay_share": 1.0}) == 0
    assert point(iterations=8, optim={**optim, "decay_share": 0.0}) == 7

    def gan(**own):
        part = {**tiny.PATCHGAN, "optim": {"lr_peak": 1e-3, **own}}
        return point(iterations=8, adversarial=part)

    assert gan() == 6  # a constant rate
    assert gan(schedule="cosine") == 0
    assert gan(schedule="wsd", decay_share=0.5) == 4
    # A weight decay that changes up to the last iteration depends on their number from the first.
    assert gan(name="adamw", weight_decay=0.1, weight_decay_end=0.2) == 0
    scheduled = {**GENERATOR["optim"], "weight_decay_end": 0.2}
    assert trunks.branch_point(config_of("generator", GENERATOR, optim=scheduled)) == 0


# ------------------------------------------------------------------------------------ what is wrong


def test_a_parent_that_does_not_fit_is_refused(chain):
    home, codes = chain
    config = config_of("generator", GENERATOR, iterations=8)
    parents = {"codes": codes}
    (segment,) = trunk(home, "generator", config, (6,), parents)

    def error(config, parents):
        return tiny.do(tiny.lay_out(home, "generator", to_tree(config), parents))

    branch = trunks.branch(config)
    without = error(branch, parents)
    assert (without.outcome, without.exit_code) == ("failed", 2)
    assert without.error == "trunk.start: 6 needs a parent `trunk` that ends there"
    alone = trained(home, "generator", config, parents)
    found = error(branch, {**parents, "trunk": alone})
    assert found.error.startswith("parents.trunk: is not a segment that ends at iteration 6")
    seed = dataclasses.replace(branch, seed=1)
    found = error(seed, {**parents, "trunk": segment})
    assert found.error == "parents.trunk: is a segment of another trunk"
    late = dataclasses.replace(branch, iterations=7)
    found = error(late, {**parents, "trunk": segment})
    assert found.error == "trunk.start: 6 is after the decay begins at 5"
    found = error(config, {**parents, "trunk": segment})
    assert found.error.startswith("parents.trunk: is for runs that take over a trunk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trunk": {"role": "branch", "start": 12}}, "trunk.start: 12 is not allowed"),
        ({"trunk": {"role": "segment", "start": 0}}, "'wsd' is not allowed in a segment"),
        ({"trunk": {"role": "root", "start": 0}}, "trunk.role: 'root'"),
    ],
)
def test_configs_that_are_none(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of("generator", GENERATOR, **{"iterations": 12, **changes})


def test_a_damaged_end_state_is_named(chain, tmp_path):
    _, codes = chain
    home = link_home(chain, tmp_path)
    config = config_of("generator", GENERATOR, iterations=8)
    parents = {"codes": codes}
    (segment,) = trunk(home, "generator", config, (6,), parents)
    path = segment.path / "final" / "generator.optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    branch = to_tree(trunks.branch(config))
    outcome = tiny.do(tiny.lay_out(home, "generator", branch, {**parents, "trunk": segment}))
    assert (outcome.outcome, outcome.error_class) == ("failed", "DamagedError")
    assert "generator.optimizer.safetensors" in outcome.error


def test_what_rests_on_a_diverged_trunk_is_recorded_as_diverged(chain, tmp_path):
    _, codes = chain
    home = link_home(chain, tmp_path)
    wild = {"schedule": "wsd", "lr_peak": 1e38, "warmup_iterations": 2}
    tree = {**tiny.generator(tiny.NO_DROPOUT), "optim": wild}
    config = config_of("generator", tree, iterations=30)
    parents = {"codes": codes}
    first = tiny.lay_out(
        home, "generator", to_tree(trunks.segment(config, start=0, end=12)), parents
    )
    assert tiny.do(first).outcome == "diverged"
    second = tiny.lay_out(
        home,
        "generator",
        to_tree(trunks.segment(config, start=12, end=24)),
        {**parents, "trunk": first},
    )
    branch = tiny.lay_out(
        home, "generator", to_tree(trunks.branch(config)), {**parents, "trunk": second}
    )
    unfinished = tiny.do(branch)
    assert (unfinished.outcome, unfinished.error_class) == ("failed", "ParentNotDone")
    for run_dir in (second, branch):
        assert tiny.do(run_dir).outcome == "diverged"
        ended = endpoint(run_dir)
        assert ended["values"] == [] and ended["reason"] == endpoint(first)["reason"]
        assert ended["columns"]["trunk_id"] == endpoint(first)["columns"]["trunk_id"]
    assert "is not finite at step" in endpoint(branch)["reason"]


def link_home(chain, folder: Path) -> Path:
    """A home of its own with the finished tokenizer and codes of another."""
    home = folder / "linked"
    home.mkdir()
    for kind in ("tokenizer", "codes"):
        (home / kind).symlink_to(chain[0] / kind)
    return home


def test_a_segment_keeps_its_optimisers_and_a_branch_does_not(chain):
    home, codes = chain
    config = config_of("generator", GENERATOR, iterations=8)
    (segment,) = trunk(home, "generator", config, (6,), {"codes": codes})
    branch = trained(home, "generator", trunks.branch(config), {"codes": codes, "trunk": segment})
    kept = {path.name for path in (segment.path / "final").iterdir()}
    assert kept - {path.name for path in (branch.path / "final").iterdir()} == {
        "generator.optimizer.safetensors"
    }
    assert json.loads((segment.path / "final" / "state.json").read_text())["step"] == 6
