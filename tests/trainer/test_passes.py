"""Passes of evaluations: one list for the trainer that makes them and the plan that counts them."""

import dataclasses

import pytest

from tokenlaw.sweeps import cost
from tokenlaw.sweeps.plan import make_plan
from tokenlaw.sweeps.study import load_study
from tokenlaw.trainer.accounting.passes import images_per_pass, is_guided, passes

SEARCH = {"cfg_selection": "train_subset", "cfg_grid": (1.0, 2.0)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    plan = make_plan(load_study("quickstart"), home=tmp_path_factory.mktemp("home"))
    return {run.id: run for run in plan.runs}


def evaluation_of(runs, subject):
    found = (r for r in runs.values() if r.kind == "evaluation" and r.config.subject == subject)
    return next(found)


@pytest.mark.parametrize(
    "changed, count",
    [
        ({"sample_seeds": (0,)}, 1),
        ({"sample_seeds": (0, 1, 2)}, 3),
        ({"sample_seeds": (0,), **SEARCH}, 2),
        ({"sample_seeds": (0, 1, 2), **SEARCH}, 4),  # the first seed is scored as it is tried
    ],
)
def test_a_plan_counts_the_passes_that_the_trainer_makes(runs, changed, count):
    run = evaluation_of(runs, "generator")
    plain = {"cfg_selection": "fixed", "cfg_grid": ()}
    config = dataclasses.replace(run.config, **plain | changed)
    assert len(passes(config)) == count
    parents = {role: runs[parent].config for role, parent in run.parents.items()}
    parents.pop("extractor", None)
    once = dataclasses.replace(config, sample_seeds=(0,), cfg_selection="fixed", cfg_grid=())
    scale = 2.0 if is_guided(config) else 1.0
    once = dataclasses.replace(once, sampling=dataclasses.replace(once.sampling, cfg_scale=scale))
    one = cost.evaluation_work(once, **parents).flops_compute
    assert cost.evaluation_work(config, **parents).flops_compute == count * one


@pytest.mark.parametrize(
    "scale, grid, guided",
    [(1.0, (), False), (0.5, (), True), (2.0, (), True), (2.0, (1.0,), False), (1.0, (1.5,), True)],
)
def test_guidance_is_any_scale_but_one(runs, scale, grid, guided):
    config = evaluation_of(runs, "generator").config
    how = dataclasses.replace(config.sampling, cfg_scale=scale)
    selection = "train_subset" if grid else "fixed"
    changed = dataclasses.replace(config, sampling=how, cfg_grid=grid, cfg_selection=selection)
    assert is_guided(changed) == guided


def test_a_tokenizer_has_one_pass_over_the_images_asked_for(runs):
    run = evaluation_of(runs, "tokenizer")
    tokenizer = runs[run.parents["tokenizer"]].config
    few = dataclasses.replace(run.config, num_samples=10)
    whole = dataclasses.replace(run.config, num_samples=None)
    assert len(passes(few)) == 1 and images_per_pass(few) == 10
    work = [cost.evaluation_work(config, tokenizer).flops_compute for config in (few, whole)]
    assert work[0] * run.config.data.num_val == work[1] * 10
