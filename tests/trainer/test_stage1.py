import dataclasses
import json

import pytest
import tiny
import torch
from safetensors.torch import load_file

from tokenlaw.results_db.record import read_endpoint
from tokenlaw.trainer.accounting import flops
from tokenlaw.trainer.accounting.config import decode_run, part
from tokenlaw.trainer.kinds import tokenizer as stage1
from tokenlaw.trainer.loop import checkpoints, data
from tokenlaw.trainer.models import build


@pytest.fixture(autouse=True)
def few_digits():
    """Reading all of them takes longer than training a few iterations."""
    with tiny.fewer_digits(train=64, val=16):
        yield


def train(home, tree, **settings):
    return tiny.done(home, "tokenizer", tree, **settings)


def weights(run_dir):
    tokenizer, quantizer, _ = build.load_tokenizer(run_dir, torch.device("cpu"))
    return torch.nn.ModuleDict({"t": tokenizer, "q": quantizer}).state_dict()


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


# ------------------------------------------------------------ the endpoint


def test_endpoint_of_a_tokenizer(home):
    run_dir = train(home, tiny.tokenizer(iterations=3, perceptual=tiny.VGG))
    endpoint = read_endpoint(run_dir)
    values = {value["metric"]: value["value"] for value in endpoint["values"]}
    entry = tiny.log_entries(run_dir)[-1]
    for name in ("loss", "reconstruction", "perceptual", "codebook", "commitment", "generator"):
        assert values[f"train_{name}"] == entry[name]
    config = decode_run("tokenizer", run_dir.config()["config"])
    columns = endpoint["columns"]
    assert columns["flops_train"] == flops.tokenizer_flops_train(config)
    # What is kept after training, not the discriminator.
    assert columns["params"] == sum(value.numel() for value in weights(run_dir).values())
    assert (columns["iterations"], columns["images_train"]) == (3, 24)
    assert (columns["tokens_per_image"], columns["codebook_size"]) == (16, 32)
    assert columns["flops_total"] == columns["flops_train"]


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_loss_is_the_weighted_sum_of_what_is_logged(kind, home):
    tree = tiny.crt(reconstruction=kind, reconstruction_weight=2.0, perceptual=tiny.VGG)
    entries = tiny.log_entries(train(home, tree))
    assert len(entries) == 4
    for step, entry in enumerate(entries):
        # The GAN's gate opens at iteration 1 and its ramp ends at 2.
        gan = {0: 0.0, 1: 0.0}.get(step, 0.1)
        expected = 2.0 * entry["reconstruction"] + 0.1 * entry["perceptual"] + entry["crt"]
        expected += entry["codebook"] + 0.25 * entry["commitment"]
        expected += gan * entry.get("generator", 0.0)
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)
        assert ("discriminator" in entry) == (gan > 0)
        assert entry["crt_weight"] == pytest.approx([0.0, 2.0, 4.0, 4.0][step])


def test_reconstruction_is_a_mean_over_pixels(home, monkeypatch):
    seen = []
    real = data.to_float
    monkeypatch.setattr(stage1.data, "to_float", lambda x: seen.append(real(x)) or seen[-1])
    run_dir = train(home, tiny.tokenizer(adversarial=None, iterations=1, augment="none"))
    config = decode_run("tokenizer", run_dir.config()["config"])
    tokenizer, quantizer = build.build_tokenizer(config, torch.device("cpu"))
    with torch.no_grad():
        y_BCHW = tokenizer.decode(quantizer(tokenizer.encode(seen[0]), 0).z_q_BND)
    error = (y_BCHW - seen[0]).square().mean().item()
    assert tiny.log_entries(run_dir)[0]["reconstruction"] == pytest.approx(error, rel=1e-4)


# ------------------------------------------------------------ the GAN


def test_the_discriminator_waits_for_its_gate(home):
    late = tiny.PATCHGAN | {"start_iteration": 3}
    run_dir = train(home, tiny.tokenizer(iterations=6, adversarial=late), checkpoint_steps=3)
    entries = tiny.log_entries(run_dir)
    # The ramp is 0 at its first iteration, so both sides begin at the next.
    assert ["discriminator" in entry for entry in entries] == [False] * 4 + [True] * 2
    # Until the gate opens, the tokenizer trains as without a GAN.
    without = tiny.log_entries(train(home, tiny.tokenizer(iterations=6, adversarial=None)))
    for step in range(4):
        assert entries[step]["loss"] == without[step]["loss"]
    assert entries[5]["loss"] != without[5]["loss"]


def test_the_discriminator_learns_and_is_clipped(home):
    tree = tiny.tokenizer(iterations=5, adversarial=tiny.PATCHGAN | {"clip_limit": 0.005})
    run_dir = train(home, tree, checkpoint_steps=5)
    config = decode_run("tokenizer", run_dir.config()["config"])
    loss = stage1.build_loss(config.adversarial, "adversarial", config, torch.device("cpu"), {})
    first = {name: value.clone() for name, value in loss.state_dict().items()}
    _, _, newest = checkpoints.checkpoints(run_dir)[0]
    checkpoints.read_folder(newest, {"adversarial": loss}, {})
    for name, parameter in loss.named_parameters():
        assert not torch.equal(parameter, first[name]), name
        assert parameter.abs().max() <= 0.005 + 1e-9, name


def test_clipping_reaches_every_optimiser_by_its_own_setting(home):
    """Adam divides by its eps = 1e-8: gradients cut to a norm of 1e-12 move nothing."""
    tree = tiny.tokenizer(
        iterations=5,
        regularizer=tiny.CRT | {"weight_decay": 0.0},
        adversarial=tiny.PATCHGAN | {"objective": "hinge"},
        optim={"name": "adam", **tiny.ADAM},
    )

    def moved(**changes):
        """Tell which modules differ from their state before the first iteration."""
        run_dir = train(home, tree | changes, checkpoint_steps=1)
        found = [folder for _, _, folder in checkpoints.checkpoints(run_dir)]
        assert len(found) >= 2  # the last two are kept: iterations 4 and 5
        names = ("autoencoder", "regularizer", "adversarial")
        states = [
            {name: load_file(folder / f"{name}.safetensors") for name in names} for folder in found
        ]
        return {
            name: max(
                (states[0][name][key] - states[1][name][key]).abs().max().item()
                for key in states[0][name]
                if not key.startswith("ema_")
            )
            > 1e-6
            for name in names
        }

    def own(part, clip):
        return {part: {**tree[part], "optim": {"name": "adam", **tiny.ADAM, "clip": clip}}}

    every = dict.fromkeys(("autoencoder", "regularizer", "adversarial"), True)
    assert moved() == every
    assert moved(**own("adversarial", 1e-12)) == every | {"adversarial": False}
    assert moved(**own("regularizer", 1e-12)) == every | {"regularizer": False}
    # Parts without settings of their own have the tokenizer's.
    small = {"name": "adam", **tiny.ADAM, "clip": 1e-12}
    assert moved(optim=small) == dict.fromkeys(every, False)
    free = own("adversarial", 0.0) | own("regularizer", 0.0)
    assert moved(optim=small, **free) == every | {"autoencoder": False}


def test_adaptive_weight_multiplies_the_generators_loss(home):
    tree = tiny.tokenizer(adversarial=tiny.PATCHGAN | {"adaptive": True})
    entry = tiny.log_entries(train(home, tree))[-1]
    expected = entry["reconstruction"] + entry["codebook"] + 0.25 * entry["commitment"]
    expected += 0.1 * entry["generator"]
    assert entry["adaptive_weight"] > 0
    assert entry["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("role", ["perceptual", "adversarial"])
def test_a_loss_in_the_wrong_place_is_refused(role, home):
    wrong = {"perceptual": tiny.PATCHGAN, "adversarial": tiny.VGG}[role]
    run_dir = tiny.lay_out(home, "tokenizer", tiny.tokenizer(**{role: wrong}))
    outcome = tiny.do(run_dir)
    assert (outcome.outcome, outcome.exit_code) == ("failed", 2)
    assert outcome.error.startswith(f"tokenizer.{role}: ") and "allowed here" in outcome.error


# ------------------------------------------------------------ the CRT


def test_lambda_zero_leaves_the_tokenizer_alone(home):
    # The regulariser trains beside it, with an optimiser of its own, and nothing reaches back.
    plain = train(home, tiny.tokenizer())
    idle = train(home, tiny.tokenizer(regularizer=tiny.CRT | {"weight": 0.0}))
    full = train(home, tiny.crt())
    assert same(weights(idle), weights(plain))
    assert not same(weights(full), weights(plain))
    crt_losses = [entry["crt"] for entry in tiny.log_entries(idle)]
    assert crt_losses[-1] < crt_losses[0]


def test_what_the_causal_model_costs_is_logged_once(home, monkeypatch):
    monkeypatch.setattr(stage1, "TIMED_AFTER", 2)
    tree = tiny.crt(iterations=4)
    run_dir = tiny.lay_out(home, "tokenizer", tree)
    assert tiny.do(run_dir, tiny.StopAfter(3)).outcome == "preempted"
    assert tiny.do(run_dir).outcome == "done"
    lines = [json.loads(line) for line in run_dir.log_path.read_text().splitlines()]
    overhead = flops.regularizer_overhead(decode_run("tokenizer", tree))
    (said,) = [line for line in lines if "regularizer_flops_overhead" in line]
    assert said is lines[0] and said["regularizer_flops_overhead"] == overhead > 0
    assert said["plain_iterations"] == 4 * (1 + overhead)
    (value,) = [v for v in read_endpoint(run_dir)["values"] if v["metric"] == "crt_flops_overhead"]
    assert value["value"] == overhead
    # The clock's share, once a process: the first had three iterations, the second one.
    timed = [line for line in lines if "regularizer_seconds_share" in line]
    assert [line["step"] for line in timed] == [1]
    assert timed[0]["regularizer_seconds_share"] > 0
    # Measuring moves nothing.
    monkeypatch.setattr(stage1, "TIMED_AFTER", 99)
    assert same(weights(train(home.parent / "other", tree)), weights(run_dir))


def test_latents_before_the_projection(home):
    tree = tiny.tokenizer(regularizer=tiny.CRT | {"latent": "unprojected"})
    entries = tiny.log_entries(train(home, tree))
    assert all(entry["crt"] > 0 for entry in entries)


# ------------------------------------------------------------ averages, precision


def test_the_moving_average_is_what_is_kept(home):
    plain = train(home, tiny.tokenizer(adversarial=None))
    slow = train(home, tiny.tokenizer(adversarial=None, ema_decay=0.999999))
    half = train(home, tiny.tokenizer(adversarial=None, ema_decay=0.5))
    config = decode_run("tokenizer", plain.config()["config"])
    modules = build.build_tokenizer(config, torch.device("cpu"))
    first = torch.nn.ModuleDict(dict(zip("tq", modules, strict=True))).state_dict()
    assert tiny.losses(half) == tiny.losses(plain)  # training itself does not see the average
    for name, value in weights(slow).items():
        torch.testing.assert_close(value, first[name], atol=1e-5, rtol=1e-3)
    moved = [
        (weights(half)[name] - first[name]).norm() / (value - first[name]).norm()
        for name, value in weights(plain).items()
        if not torch.equal(value, first[name])
    ]
    assert len(moved) > 10 and 0.3 < torch.stack(moved).mean() < 0.95


def test_bf16_is_near_fp32(home):
    fp32 = tiny.losses(train(home, tiny.tokenizer()))
    run_dir = train(home, tiny.tokenizer(numerics={"precision": "bf16"}))
    assert tiny.losses(run_dir) == pytest.approx(fp32, rel=0.05)
    assert tiny.losses(run_dir) != fp32
    assert all(value.dtype == torch.float32 for value in weights(run_dir).values())


# ------------------------------------------------------------ seeds and divergence


def test_the_seed_decides_everything(home, tmp_path):
    first = train(home, tiny.crt())
    again = train(tmp_path / "again", tiny.crt())
    other = train(home, tiny.crt(seed=1))
    tiny.assert_same(again, first)
    assert tiny.losses(other) != tiny.losses(first)


def test_a_nan_image_ends_the_run_as_diverged(home, monkeypatch):
    real, calls = data.to_float, []

    def poisoned(x):
        calls.append(x)
        pixels = real(x)
        if len(calls) == 4:
            pixels[0, 0, 0, 0] = float("nan")
        return pixels

    monkeypatch.setattr(stage1.data, "to_float", poisoned)
    run_dir = tiny.lay_out(home, "tokenizer", tiny.tokenizer(iterations=9), checkpoint_steps=1)
    outcome = tiny.do(run_dir)
    assert (outcome.outcome, outcome.exit_code) == ("diverged", 0)
    endpoint = read_endpoint(run_dir)
    assert endpoint["status"] == "diverged"
    assert endpoint["reason"] == "stage-1 loss is not finite at step 3"
    assert endpoint["values"] == []
    assert not (run_dir.path / "final").exists()
    config = decode_run("tokenizer", run_dir.config()["config"])
    tokenizer, quantizer = build.build_tokenizer(config, torch.device("cpu"))
    modules = torch.nn.ModuleDict({"tokenizer": tokenizer, "quantizer": quantizer})
    kept = checkpoints.checkpoints(run_dir)
    assert [step for step, _, _ in kept] == [3, 2]
    for _, _, path in kept:
        checkpoints.read_folder(path, {"autoencoder": modules}, {})
        assert all(p.isfinite().all() for p in modules.parameters())


# ------------------------------------------------------------ resume


MECHANISMS = {
    "gan": {},
    "crt, average": {"regularizer": tiny.CRT, "ema_decay": 0.9},
    "lecam, gradient penalty": {
        "adversarial": tiny.PATCHGAN | {"objective": "wgan_gp", "lecam_weight": 0.1}
    },
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("polls", [0, 2, 4])
def test_a_stopped_run_ends_the_same(mechanism, polls, home, tmp_path):
    # 24 of 64 images a batch: the epoch wraps in the third.
    tree = tiny.tokenizer(iterations=5, batch_size=24, **MECHANISMS[mechanism])
    calm = train(tmp_path / "calm", tree)
    run_dir = tiny.lay_out(home, "tokenizer", tree)
    outcome = tiny.do(run_dir, tiny.StopAfter(polls))
    assert (outcome.outcome, outcome.exit_code) == ("preempted", 75)
    assert checkpoints.checkpoints(run_dir)[0][0] == polls
    assert tiny.do(run_dir, tiny.StopAfter(1)).outcome in ("preempted", "done")
    assert tiny.do(run_dir).outcome == "done"
    tiny.assert_same(run_dir, calm)
    assert not tiny.temporaries(home)


def test_build_is_a_function_of_the_seed():
    config = decode_run("tokenizer", tiny.tokenizer())
    torch.manual_seed(1)
    first = build.build_tokenizer(config, torch.device("cpu"))[0].state_dict()
    torch.manual_seed(2)
    assert same(first, build.build_tokenizer(config, torch.device("cpu"))[0].state_dict())
    other = build.build_tokenizer(dataclasses.replace(config, seed=1), torch.device("cpu"))[
        0
    ].state_dict()
    assert not same(first, other)


def test_kernels_are_for_steps_that_keep_a_gpu_busy():
    def config(batch, **tokenizer):
        tree = tiny.tokenizer(tokenizer=part("vqgan", **tokenizer), batch_size=batch)
        tree["data"] = tiny.data(256 if batch == 64 else 32)
        return decode_run("tokenizer", tree)

    assert stage1.large(config(64), 64)
    # CIFAR-10 at 32 px.
    assert not stage1.large(config(128, ch=64, ch_mult=[1, 2, 2], z_channels=128), 128)
