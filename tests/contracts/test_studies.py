"""Every file of sweeps/studies keeps the contract: it plans without data, and says what it costs.

The papers' studies have the papers' values.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from functools import cache

import pytest

from tokenlaw.sweeps.plan import make_plan
from tokenlaw.sweeps.planned import Plan
from tokenlaw.sweeps.study import load_study, names
from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting import counts as count
from tokenlaw.trainer.accounting.learning_rate import learning_rate, weight_decay

STUDIES = names()
# Those that stay without data; the others are ours, for small machines.
PAPERS = [name for name in STUDIES if name != "quickstart" and "cifar10" not in name]


@cache
def plan_of(name: str) -> Plan:
    return make_plan(load_study(name), home="/nowhere")


def runs(name: str, kind: str) -> list:
    return [run for run in plan_of(name).runs if run.kind == kind]


def numbers(name: str) -> tuple[int, int, int]:
    found = plan_of(name).totals()["by_kind"]
    return (found["tokenizer"]["runs"], found["codes"]["runs"], found["generator"]["runs"])


@pytest.mark.parametrize("name", STUDIES)
def test_it_plans_without_data(name):
    plan = plan_of(name)
    assert len({run.id for run in plan.runs}) == len(plan.runs)
    # A data set may have few validation images; nothing else is to be warned of.
    assert [text for text in plan.warnings if "too few" not in text] == []
    assert plan.primary
    for run in plan.runs:
        assert run.members
        assert run.gpu_hours > 0
    json.dumps(plan.to_json(), allow_nan=False)
    digests = {run.config.data.digest for run in plan.runs if run.kind != "generator"}
    bundled = None not in digests
    assert bundled == (plan.missing_data is None)


@pytest.mark.parametrize("name", STUDIES)
def test_every_generator_and_tokenizer_is_evaluated(name):
    evaluated = {
        run.parents["generator" if run.config.subject == "generator" else "tokenizer"]
        for run in runs(name, "evaluation")
    }
    assert {run.id for kind in ("tokenizer", "generator") for run in runs(name, kind)} <= evaluated


@pytest.mark.parametrize("name", STUDIES)
def test_its_docstring_says_how_and_what_it_costs(name):
    text = importlib.import_module(f"tokenlaw.sweeps.studies.{name}").__doc__ or ""
    words = " ".join(text.split())
    assert "Command: tokenlaw " in words
    if name in PAPERS:
        assert re.search(r"Papers?: .*arXiv \d{4}\.\d{5}", words)
        stated = re.search(r"Expected cost: (\d\.\de\d+) train FLOPs", words)
        assert stated, "the docstring does not state the cost"
        assert float(stated[1]) == pytest.approx(plan_of(name).totals()["flops_train"], rel=0.06)


@pytest.mark.parametrize("name", STUDIES)
def test_its_axes_are_columns_of_the_table(name):
    for run in plan_of(name).runs:
        for member in run.members:
            assert all(isinstance(v, str | int | float | bool) for v in member.axes.values())


# ------------------------------------------------------------------------------ the papers' values


def test_crt_main():
    assert numbers("crt_main") == (2, 2, 126)
    axis = sorted(run.flops_paper for run in runs("crt_main", "generator"))
    assert axis[0] == 6 * 52_094_720 * 15_000 * 256 == pytest.approx(1.2e15, rel=0.01)
    assert axis[-1] == 6 * 774_699_520 * 2_250_000 * 256 == pytest.approx(2.7e18, rel=0.01)
    assert sorted({run.config.iterations for run in runs("crt_main", "generator")}) == [
        *(15_000, 22_500, 45_000, 90_000, 187_500, 375_000, 750_000, 1_500_000, 2_250_000),
    ]
    assert {run.arm: run.config.iterations for run in runs("crt_main", "tokenizer")} == {
        "vq": 400_000,
        "crt": 380_000,
    }
    document = json.loads(json.dumps(plan_of("crt_main").to_json()))
    kinds = [run["kind"] for run in document["runs"]]
    assert [kinds.count(kind) for kind in ("tokenizer", "codes", "generator")] == [2, 2, 126]


def test_crt_main_has_the_seven_sizes_of_table_4():
    named = {f"llama-{size}" for size in ("52M", "81M", "111M", "212M", "343M", "517M", "775M")}
    counts = {name: model for name, model in count.generators().items() if name in named}
    for run in runs("crt_main", "generator"):
        reference = counts[f"llama-{run.axes['size']}"]
        assert run.params == count.count_generator(reference).params
    assert {run.axes["size"] for run in runs("crt_main", "generator")} == {
        name.removeprefix("llama-") for name in named
    }


def test_crt_recipe_of_stage_1():
    vq, crt = (next(r for r in runs("crt_main", "tokenizer") if r.arm == a) for a in ("vq", "crt"))
    optim = vq.config.optim
    assert (optim.name, optim.lr_warmup_start, optim.lr_peak) == ("adam", 1e-5, 1e-4)
    assert (optim.warmup_iterations, optim.schedule) == (3_000, "constant")
    assert (optim.beta1, optim.beta2) == (0.9, 0.95)
    assert vq.config.batch_size == 128
    assert vq.params == 71_883_403
    gan = vq.config.adversarial.config
    assert (gan.start_iteration, gan.ramp_iterations, gan.weight) == (20_000, 2_000, 0.5)
    epochs = vq.config.iterations * vq.config.batch_size / vq.config.data.num_train
    assert epochs == pytest.approx(39.96, abs=0.01)
    regularizer = crt.config.regularizer.config
    assert (regularizer.weight, regularizer.layers) == (4.0, 2)
    assert (regularizer.ramp_iterations, regularizer.weight_decay) == (1_000, 0.1)
    same = dataclasses.replace(crt.config, regularizer=None, iterations=400_000)
    assert same == vq.config


def test_crt_recipe_of_stage_2():
    run = next(r for r in runs("crt_main", "generator") if r.axes["iterations"] == 375_000)
    optim = run.config.optim
    assert (optim.name, optim.lr_warmup_start, optim.lr_peak) == ("adamw", 3e-4, 3e-3)
    assert (optim.warmup_iterations, optim.schedule, optim.lr_end_share) == (5_000, "cosine", 0.0)
    epochs = run.config.iterations * run.config.batch_size / 1_281_167
    assert epochs == pytest.approx(74.9, abs=0.05)
    assert run.config.model.qk_norm
    samples = next(r for r in runs("crt_main", "evaluation") if r.config.subject == "generator")
    assert samples.config.cfg_selection == "train_subset"
    assert samples.config.cfg_grid == (1.5, 1.75, 2.0, 2.25)
    assert samples.config.num_samples == 50_000


def test_crt_codebook():
    assert numbers("crt_codebook") == (3, 3, 189)
    params = {run.axes["codebook_size"]: run.params for run in runs("crt_codebook", "tokenizer")}
    assert params == {1_024: 71_760_523, 16_384: 71_883_403, 131_072: 72_800_907}
    large = next(
        run.params
        for run in runs("crt_codebook", "generator")
        if run.axes["codebook_size"] == 131_072 and run.axes["size"] == "775M"
    )
    assert large == 1_068_300_800


def test_crt_tokens():
    assert numbers("crt_tokens") == (2, 6, 378)
    for arm in ("vq", "crt"):
        codes = [run for run in runs("crt_tokens", "codes") if run.arm == arm]
        assert {run.axes["tokens_per_image"]: run.config.data.resolution for run in codes} == {
            256: 256,
            400: 320,
            576: 384,
        }
    for run in runs("crt_tokens", "evaluation"):
        assert run.config.data.resolution == 256
    tokens = 576
    run = next(
        r
        for r in runs("crt_tokens", "generator")
        if r.axes == {"tokens_per_image": tokens, "size": "52M", "iterations": 15_000}
    )
    matmul = 6 * (4 * 640**2 + 3 * 640 * 1_792) + 16_384 * 640
    assert run.flops_train == 15_000 * 256 * tokens * 6 * (matmul + 6 * 640 * tokens)
    assert run.config.z_loss == 1e-4


def test_studies_share_their_runs():
    main = {run.id for run in plan_of("crt_main").runs}
    for name, axis, value in (
        ("crt_codebook", "codebook_size", 16_384),
        ("crt_tokens", "tokens_per_image", 256),
    ):
        shared = {run.id for run in plan_of(name).runs if run.axes.get(axis) == value}
        assert len(shared) >= 63 + 63
        assert shared <= main
    both = {run.id for run in runs("crt_tokens", "generator") if run.id in main}
    assert both == {run.id for run in runs("crt_main", "generator")}
    tokenizers = {run.id for run in runs("crt_dataset_size", "tokenizer")}
    assert tokenizers == {run.id for run in runs("crt_main", "tokenizer")}


def test_crt_ablation_sweeps_one_thing_at_a_time():
    tokenizers = runs("crt_ablation", "tokenizer")
    points = {
        (run.axes["crt_layers"], run.axes["crt_weight"]): run.config.iterations
        for run in tokenizers
    }
    assert points == {
        **{(0, 4.0): 400_000, (2, 4.0): 380_000, (4, 4.0): 360_000},
        **{(6, 4.0): 340_000, (8, 4.0): 320_000},
        **{(2, weight): 380_000 for weight in (1.0, 2.0, 8.0, 16.0)},
    }
    plain = next(run for run in tokenizers if run.axes["crt_layers"] == 0)
    assert plain.config.regularizer is None
    assert plain.id in {run.id for run in runs("crt_main", "tokenizer")}
    assert len(plan_of("crt_ablation").dropped) == 16 * 4
    assert {run.config.iterations for run in runs("crt_ablation", "generator")} == {250_000}


def test_crt_dataset_size():
    sizes = sorted({run.config.num_train for run in runs("crt_dataset_size", "generator")})
    assert sizes[-1] == 1_281_167
    assert len(sizes) == 5
    caption = make_plan(load_study("crt_dataset_size", {"iterations": 250_000}), home="/nowhere")
    assert {run.config.iterations for run in caption.runs if run.kind == "generator"} == {250_000}


def test_crt_lsun():
    assert numbers("crt_lsun") == (6, 6, 18)
    images = {run.axes["category"]: run.config.data.num_train for run in runs("crt_lsun", "codes")}
    assert images == {"cat": 1_647_266, "horse": 1_990_340, "bedroom": 3_023_042}
    # Distances of equally many images, all of them held out of the training part.
    for run in plan_of("crt_lsun").runs:
        if run.kind != "generator":
            data = run.config.data
            assert data.num_val == data.dataset.config.num_val_held_out == 10_000
    generators = runs("crt_lsun", "generator")
    assert {run.config.label_mode for run in generators} == {"none"}
    # Table 3: 111M, 340M and 740M for every category and tokenizer.
    assert sorted(
        (run.arm, run.axes["category"], run.axes["size"]) for run in generators
    ) == sorted(
        (arm, category, size)
        for arm in ("vq", "crt")
        for category in images
        for size in ("111M", "343M", "775M")
    )


def test_crt_opt():
    (tokenizer,) = runs("crt_opt", "tokenizer")
    assert tokenizer.config.iterations == 800_000
    assert tokenizer.config.quantizer.config.num_codes == 131_072
    plain = next(run for run in runs("crt_main", "tokenizer") if run.arm == "vq")
    decoder = [run.config.tokenizer.config.cost(256, 8)[1].params for run in (plain, tokenizer)]
    assert decoder[1] / decoder[0] == pytest.approx(2, rel=0.01)
    assert [run.params for run in runs("crt_opt", "generator")] == [
        *(287_049_216, 577_792_000, 1_068_300_800),
    ]


def test_crt_fsq():
    sizes = {
        run.config.quantizer.config.num_codes
        for run in runs("crt_fsq", "tokenizer")
        if run.arm == "fsq"
    }
    assert sizes == {1_000, 4_375, 15_360, 64_000}


def test_ibq_scaling():
    params = {
        run.axes["codebook_size"]: run.params
        for run in runs("ibq_scaling", "tokenizer")
        if run.arm == "ibq"
    }
    assert params[16_384] == 110_982_019
    assert params[262_144] == 173_896_579
    sizes = {
        run.axes["size"]: (run.params, run.config.iterations * 768 / 1_281_167)
        for run in runs("ibq_scaling", "generator")
        if run.arm == "ibq" and run.axes["codebook_size"] == 16_384
    }
    assert {size: found[0] for size, found in sizes.items()} == {
        "342M": 342_994_944,
        "649M": 649_640_960,
        "1.1B": 1_076_103_168,
        "2.1B": 2_063_331_840,
    }
    for run in runs("ibq_scaling", "tokenizer"):
        gan = run.config.adversarial.config
        assert (gan.objective, gan.generator_objective) == ("hinge", "non_saturating")
        assert (gan.weight, gan.lecam_weight, gan.start_iteration) == (0.1, 0.05, 0)
    for run in runs("ibq_scaling", "tokenizer"):
        config, size = run.config, run.axes["codebook_size"]
        # Random crops over the full short side, never mirrored; the average has no warm-up.
        assert (config.augment, config.crop_scale_min, config.ema_decay) == ("crop", 1.0, 0.999)
        epoch = 5_005  # iterations
        length, drops = (280, [250]) if size == 8_192 else (330, [250, 300])
        assert config.iterations == length * epoch
        rates = [learning_rate(config.optim, step, config.iterations) for step in (
            0, *(d * epoch + late for d in drops for late in (-1, 0)))]  # fmt: skip
        expected = [1e-4, 1e-4, 1e-5, 1e-5, 1e-6][: 1 + 2 * len(drops)]
        assert rates == pytest.approx(expected)
        blocks = (
            config.tokenizer.config.num_res_blocks_encoder,
            config.tokenizer.config.num_res_blocks_decoder,
        )
        assert blocks == ((4, 5) if run.arm == "ibq" else (2, 3))
        assert config.quantizer.config.beta_side == "codebook"
    for run in runs("ibq_scaling", "generator"):
        optim, steps = run.config.optim, run.config.iterations
        ends = [weight_decay(optim, step, steps) for step in (0, steps - 1)]
        assert ends == pytest.approx([0.05, 0.08 if run.axes["size"] == "2.1B" else 0.05])
        assert optim.decay_embeddings
        assert run.config.model.adaln_scale_init == 0.5
    assert {run.config.crops for run in runs("ibq_scaling", "codes")} == {"five_crop"}
    epochs = {size: round(found[1]) for size, found in sizes.items()}
    assert epochs == {"342M": 300, "649M": 350, "1.1B": 400, "2.1B": 450}


def test_ibq_ablation_moves_one_thing_at_a_time():
    points = {
        (run.arm, run.axes["codebook_dim"], run.axes["tokenizer_blocks"]): run
        for run in runs("ibq_ablation", "tokenizer")
    }
    assert set(points) == {
        *(("ibq", dim, 4) for dim in (32, 64, 128, 256)),
        *(("ibq", 256, blocks) for blocks in (1, 2)),
        *((arm, 256, 2) for arm in ("ibq-single", "vq")),
        *(("lfq", 14, 4), ("soft-vq", 256, 4)),
    }
    # The counts of the paper's nets: 4 blocks in the encoder and 5 in the decoder, and 1 and 2.
    assert points["ibq", 256, 4].params == 110_982_019
    assert points["ibq", 256, 1].params == 58_619_779
    full, single = (points[arm, 256, 2].config.quantizer.config for arm in ("ibq", "ibq-single"))
    assert full.double_quantisation
    assert single == dataclasses.replace(full, double_quantisation=False)
    for run in points.values():
        quantizer = run.config.quantizer.config
        assert (quantizer.num_codes, quantizer.dim) == (16_384, run.axes["codebook_dim"])
    shared = {points["ibq", 256, 4].id} | {
        run.id
        for run in runs("ibq_ablation", "generator")
        if run.arm == "ibq" and (run.axes["codebook_dim"], run.axes["tokenizer_blocks"]) == (256, 4)
    }
    assert len(shared) == 2
    assert shared <= {run.id for run in plan_of("ibq_scaling").runs}


def test_vcq_guidance_differs_from_vcq_schedules_in_one_evaluation():
    known = {run.id for run in plan_of("vcq_schedules").runs}
    (new,) = (run for run in plan_of("vcq_guidance").runs if run.id not in known)
    assert new.arm == "vcq-cosine-plain-guidance"
    (size_aware,) = (
        run.config.sampling
        for run in runs("vcq_guidance", "evaluation")
        if run.arm == "vcq-cosine" and run.config.sampling.cfg_scale > 1
    )
    assert size_aware.cfg_codebook == "log"
    assert new.config.sampling == dataclasses.replace(size_aware, cfg_codebook="none")


def test_vcq_schedules():
    tokenizers = {run.arm: run for run in runs("vcq_schedules", "tokenizer")}
    schedules = {arm: run.axes["schedule"] for arm, run in tokenizers.items()}
    assert schedules == {
        "constant-16384": "constant",
        "constant-8192": "constant",
        "vcq-linear": "linear",
        "vcq-cosine": "cosine",
        "vcq-power": "power",
        "vcq-cosine-11264": "cosine",
    }
    # The paper leaves biases and norms undecayed; the numerals of its rates are own choices.
    assert {r.config.optim.decay_embeddings for r in runs("vcq_schedules", "generator")} == {True}
    means = {
        arm: sum(run.config.quantizer.config.codebook_sizes(256)) / 256
        for arm, run in tokenizers.items()
    }
    assert means["vcq-cosine"] == pytest.approx(5963.68, abs=0.01)
    assert means["vcq-cosine-11264"] == pytest.approx(4100.42, abs=0.01)
    assert means["constant-8192"] == 8192
    for run in tokenizers.values():
        assert run.config.iterations * run.config.batch_size / 1_281_167 == pytest.approx(
            259.8, abs=0.1
        )
        assert run.config.adversarial.config.diffaug == ("color", "translation", "cutout")
    # Table 7: scale, exponent; beside it the temperature without guidance.
    guided, plain = {}, {}
    for run in runs("vcq_schedules", "evaluation"):
        if run.config.subject == "generator":
            where = guided if run.config.sampling.cfg_scale > 1 else plain
            where[run.arm, run.axes["size"]] = run.config.sampling
    assert len(guided) == len(plain) == 18
    assert {(s.cfg_schedule, s.cfg_codebook) for s in guided.values()} == {("cosine_power", "log")}
    for arm, size, *numbers in (
        ("constant-16384", "B", 20.0, 1.5, 0.85),
        ("constant-8192", "B", 20.0, 2.0, 0.85),
        ("vcq-linear", "B", 14.0, 1.75, 0.85),
        ("vcq-cosine", "B", 10.0, 1.5, 0.85),
        ("vcq-cosine", "L", 4.0, 0.75, 0.85),
        ("vcq-cosine", "XL", 5.0, 0.75, 0.85),
        ("vcq-power", "B", 10.0, 1.75, 0.85),
        ("vcq-cosine-11264", "L", 4.0, 1.25, 0.9),
        ("vcq-cosine-11264", "XL", 3.0, 1.0, 0.95),
    ):
        chosen = guided[arm, size]
        assert [chosen.cfg_scale, chosen.cfg_power, plain[arm, size].temperature] == numbers


def test_cifar10_scales(tmp_path):
    with pytest.raises(ValueError, match="scale: 'huge'; allowed: tiny, gpu"):
        load_study("quickstart-cifar10", {"scale": "huge"})
    grids = [load_study("quickstart-cifar10", {"scale": scale}) for scale in ("tiny", "gpu")]
    assert {grid.name for grid in grids} == {"quickstart-cifar10"}
    tiny, large = (make_plan(grid, home=tmp_path) for grid in grids)
    assert large.totals()["flops_train"] > 100 * tiny.totals()["flops_train"]
    assert {run.id for run in tiny.runs}.isdisjoint(run.id for run in large.runs)


def test_every_quantizer_is_in_some_study():
    used = {run.config.quantizer.name for name in STUDIES for run in runs(name, "tokenizer")}
    assert {"vq", "fsq", "ibq", "vcq"} <= used <= set(parts.names("quantizers"))
