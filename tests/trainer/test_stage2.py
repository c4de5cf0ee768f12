import math

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from tokenlaw.results_db.record import read_endpoint
from tokenlaw.trainer.accounting import flops
from tokenlaw.trainer.accounting.config import decode_run
from tokenlaw.trainer.kinds import generator as stage2
from tokenlaw.trainer.loop import checkpoints, cross_entropy, data
from tokenlaw.trainer.loop.code_sets import Codes, train_subset
from tokenlaw.trainer.models import build
from tokenlaw.trainer.models.build import load_generator

FAST = {"lr_peak": 1e-2, "beta2": 0.95}
QUIET = {**tiny.NO_DROPOUT, "class_dropout": 0.0}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A home with a finished tokenizer and codes."""
    home = tmp_path_factory.mktemp("home")
    return home, tiny.codes_chain(home)[1]


def train(chain, model=None, settings=None, **changes):
    home, codes_dir = chain
    tree = tiny.generator(model, **changes)
    return tiny.done(home, "generator", tree, {"codes": codes_dir}, **(settings or {}))


def weights(run_dir):
    return load_generator(run_dir, torch.device("cpu"))[0].state_dict()


# ------------------------------------------------------------------------------------- the endpoint


def test_endpoint_of_a_generator(chain):
    run_dir = train(chain, iterations=5)
    endpoint = read_endpoint(run_dir)
    values = {value["metric"]: value for value in endpoint["values"]}
    assert set(values) == {"val_loss", "val_bits_per_image", "train_loss"}
    val_loss = values["val_loss"]["value"]
    assert values["val_loss"]["unit"] == "nats/token"
    assert values["val_bits_per_image"]["value"] == pytest.approx(val_loss * 16 / math.log(2))
    per_position = np.load(run_dir.artifacts_path / "val_loss_per_position.npy")
    assert per_position.shape == (16,)
    assert per_position.mean() == pytest.approx(val_loss)
    assert tiny.losses(run_dir)[-1] == values["train_loss"]["value"]
    config = decode_run("generator", run_dir.config()["config"])
    columns = endpoint["columns"]
    assert columns["flops_train"] == flops.generator_flops_train(config, 32, 16)
    assert columns["tokens_train"] == 5 * 8 * 16 and columns["images_train"] == 40
    assert columns["flops_ancestors"] > 0
    assert columns["params"] == flops.generator_cost(config.model, 32, 10, 16).params


def test_validation_loss_is_the_models(chain):
    run_dir = train(chain, iterations=5)
    generator, _ = load_generator(run_dir, torch.device("cpu"))
    codes, labels = Codes(chain[1]).split("val")
    code_BL = torch.from_numpy(codes[:, 0].astype(np.int64))
    with torch.no_grad():
        logits = generator(code_BL[:, :-1], torch.from_numpy(labels).long())
    expected = F.cross_entropy(logits.flatten(0, 1), code_BL.flatten()).item()
    found = read_endpoint(run_dir)["values"][0]["value"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_first_loss_is_uniform_and_training_lowers_it(chain):
    run_dir = train(chain, iterations=30)
    losses = tiny.losses(run_dir)
    assert losses[0] == pytest.approx(math.log(32), abs=1e-4)
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.3


# --------------------------------------------------------------------------- batches and gradients


def test_micro_batches_give_the_same_gradients(chain, tmp_path):
    home, codes_dir = chain
    tree = tiny.generator(QUIET, iterations=6, z_loss=1e-3)
    run_dir = tiny.done(home, "generator", tree, {"codes": codes_dir})
    whole, whole_losses = weights(run_dir), tiny.losses(run_dir)
    for micro in (1, 4):
        other = tiny.lay_out(home, "generator", tree, {"codes": codes_dir}, micro_batch=micro)
        assert other.path == run_dir.path  # it is no part of the identity
        for name in ("endpoint.json", "log.jsonl"):
            (other.path / name).unlink()
        for folder in ("final", "checkpoints"):
            for path in (other.path / folder).rglob("*"):
                if path.is_file():
                    path.unlink()
            for path in sorted((other.path / folder).rglob("*"), reverse=True):
                path.rmdir()
            (other.path / folder).rmdir()
        assert tiny.do(other).outcome == "done"
        assert tiny.losses(other) == pytest.approx(whole_losses, rel=1e-5)
        for name, value in weights(other).items():
            torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-5)


def test_a_micro_batch_that_does_not_divide_is_refused(chain):
    home, codes_dir = chain
    tree = tiny.generator(seed=77)
    run_dir = tiny.lay_out(home, "generator", tree, {"codes": codes_dir}, micro_batch=3)
    outcome = tiny.do(run_dir)
    assert (outcome.outcome, outcome.exit_code) == ("failed", 2)
    assert outcome.error == "micro_batch: 3 does not divide the 8 images of each process"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("z_weight", [0.0, 0.3])
def test_chunked_output_loss_equals_the_plain_one(masked, z_weight):
    torch.manual_seed(0)
    hidden = torch.randn(21, 8, requires_grad=True)
    weight = torch.randn(13, 8, requires_grad=True)
    target = torch.randint(5, (21,))
    illegal = (torch.arange(13)[None] >= torch.randint(5, 14, (21,))[:, None]) if masked else None
    plain = cross_entropy.plain(hidden, weight, target, illegal, z_weight)
    plain_grads = torch.autograd.grad(3 * plain[0], [hidden, weight])
    for chunk in (1, 8, 21, 100):
        found = cross_entropy.chunked(hidden, weight, target, illegal, z_weight, chunk_tokens=chunk)
        torch.testing.assert_close(found, plain)
        grads = torch.autograd.grad(3 * found[0], [hidden, weight])
        torch.testing.assert_close(list(grads), list(plain_grads), atol=1e-5, rtol=1e-4)


def test_z_loss_is_the_squared_log_partition():
    torch.manual_seed(0)
    hidden, weight, target = torch.randn(6, 4), torch.randn(9, 4), torch.randint(9, (6,))
    logits = hidden @ weight.T
    loss, nats = cross_entropy.plain(hidden, weight, target, None, 0.2)
    log_z = logits.exp().sum(1).log()
    assert nats.item() == pytest.approx((log_z - logits[range(6), target]).mean().item(), rel=1e-5)
    assert (loss - nats).item() == pytest.approx(0.2 * (log_z**2).mean().item(), rel=1e-5)


def test_z_loss_reaches_the_training(chain):
    free = train(chain, QUIET, iterations=12, optim=FAST)
    pulled = train(chain, QUIET, iterations=12, optim=FAST, z_loss=0.1)
    assert tiny.losses(free)[0] == tiny.losses(pulled)[0]  # the log shows the cross-entropy alone
    log_z = []
    for run_dir in (free, pulled):
        generator, _ = load_generator(run_dir, torch.device("cpu"))
        codes, labels = Codes(chain[1]).split("val")
        code_BL = torch.from_numpy(codes[:32, 0].astype(np.int64))
        with torch.no_grad():
            logits = generator(code_BL[:, :-1], torch.from_numpy(labels[:32]).long())
        log_z.append(logits.logsumexp(-1).abs().mean().item())
    assert log_z[1] < log_z[0] - 1


def test_an_image_subset_is_all_that_is_seen(chain, monkeypatch):
    seen = []
    real = data.batch_indices

    def spy(num, batch_size, seed, step):
        indices = real(num, batch_size, seed, step)
        seen.append((num, indices))
        return indices

    monkeypatch.setattr(stage2.data, "batch_indices", spy)
    train(chain, num_train=12, iterations=6)
    assert {num for num, _ in seen} == {12}
    assert sorted(set(torch.cat([indices for _, indices in seen]).tolist())) == list(range(12))
    home, codes_dir = chain
    tree = tiny.generator(num_train=65)
    run_dir = tiny.lay_out(home, "generator", tree, {"codes": codes_dir})
    assert tiny.do(run_dir).error == "num_train: 65 is not allowed; the data have 64 images"


def test_nested_subsets_of_the_codes_are_nested_images(chain):
    labels = Codes(chain[1]).split("train")[1]
    small, large = train_subset(64, 8), train_subset(64, 32)
    assert set(small.tolist()) <= set(large.tolist())
    assert len(labels[small.numpy()]) == 8


def test_unlabelled_training_has_one_class(chain):
    run_dir = train(chain, label_mode="none", iterations=3)
    generator, _ = load_generator(run_dir, torch.device("cpu"))
    assert generator.num_classes == 1
    assert read_endpoint(run_dir)["values"][0]["value"] > 0


def test_codes_from_memory_maps_are_the_same(chain, tmp_path):
    home, codes_dir = chain
    resident = train(chain, iterations=3, seed=5)
    assert resident.path.is_dir()
    other_home = tmp_path / "other"
    for kind in ("tokenizer", "codes"):
        (other_home / kind).parent.mkdir(parents=True, exist_ok=True)
        (other_home / kind).symlink_to(home / kind)
    tree = tiny.generator(iterations=3, seed=5)
    mapped = tiny.done(other_home, "generator", tree, {"codes": codes_dir}, cache_codes_bytes=1)
    tiny.assert_same(mapped, resident)


# --------------------------------------------------------------------------------- illegal codes


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """Codes whose codebook grows from 2 to 32 along the sequence."""
    home = tmp_path_factory.mktemp("vcq")
    quantizer = tiny.part("vcq", codebook_size=32, codebook_size_min=2, dim=4)
    return home, tiny.codes_chain(home, tiny.varied_tokenizer(quantizer=quantizer))[1]


def test_masked_training_gives_no_weight_to_illegal_codes(growing):
    home, codes_dir = growing
    sizes = build.legal_sizes(
        type(codes_dir).of(home, "tokenizer", codes_dir.config()["parents"]["tokenizer"]), 16
    )
    assert sizes[0] == 2 and sizes[-1] == 32
    runs = {
        masked: train(growing, QUIET, iterations=4, mask_illegal=masked) for masked in (False, True)
    }
    for masked, run_dir in runs.items():
        first = tiny.losses(run_dir)[0]
        uniform = np.mean([math.log(size) for size in sizes]) if masked else math.log(32)
        assert first == pytest.approx(uniform, abs=1e-3)
    # The validation loss is under the same model: without training it is uniform over legal codes.
    idle = train(growing, QUIET, iterations=1, mask_illegal=True, optim={"lr_peak": 1e-12})
    loss_L = np.load(idle.artifacts_path / "val_loss_per_position.npy")
    np.testing.assert_allclose(loss_L, np.log(sizes), atol=1e-4)


# ------------------------------------------------------------------------------------- divergence


def test_a_run_that_diverges_is_recorded_and_leaves_no_broken_state(chain):
    home, codes_dir = chain
    # The learning rate throws the weights to infinity at its first update; warm-up delays that.
    steps = {"warmup_iterations": 3, "lr_warmup_start": 0.0, "lr_peak": 1e38, "clip": 0.0}
    tree = tiny.generator(QUIET, iterations=9, optim=steps)
    run_dir = tiny.lay_out(home, "generator", tree, {"codes": codes_dir}, checkpoint_steps=1)
    outcome = tiny.do(run_dir)
    assert (outcome.outcome, outcome.exit_code) == ("diverged", 0)
    endpoint = read_endpoint(run_dir)
    assert endpoint["status"] == "diverged" and endpoint["values"] == []
    assert "is not finite at step" in endpoint["reason"]
    step = int(endpoint["reason"].rsplit(" ", 1)[1])
    assert 2 <= step <= 4
    assert not (run_dir.path / "final").exists()
    kept = checkpoints.checkpoints(run_dir)
    assert kept and all(at <= step for at, _, _ in kept)
    assert tiny.do(run_dir).outcome == "diverged"  # again: nothing to do
    assert len(run_dir.attempts()) == 1
    # An evaluation of it is refused, and says why.
    parents = {"generator": run_dir, "codes": codes_dir}
    parents["tokenizer"] = type(run_dir).of(
        home, "tokenizer", codes_dir.config()["parents"]["tokenizer"]
    )
    child = tiny.lay_out(home, "evaluation", tiny.samples(metrics=[tiny.part("fcd")]), parents)
    outcome = tiny.do(child)
    assert (outcome.outcome, outcome.error_class) == ("failed", "ParentNotDone")
    assert outcome.error == f"generator {run_dir.id} is diverged"


# ------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("polls", [0, 1, 3, 6, 8])
def test_a_stopped_run_ends_the_same(polls, chain, tmp_path):
    home, codes_dir = chain
    tree = tiny.generator(iterations=6, batch_size=48)  # an epoch is 64 images: it wraps
    calm = tiny.done(home, "generator", tree, {"codes": codes_dir})
    other_home = tmp_path / "other"
    other_home.mkdir()
    for kind in ("tokenizer", "codes"):
        (other_home / kind).symlink_to(home / kind)
    run_dir = tiny.lay_out(other_home, "generator", tree, {"codes": codes_dir})
    outcome = tiny.do(run_dir, tiny.StopAfter(polls))
    assert (outcome.outcome, outcome.exit_code) == ("preempted", 75)
    assert checkpoints.checkpoints(run_dir)[0][0] == min(polls, 6)
    assert tiny.do(run_dir, tiny.StopAfter(1)).outcome == "preempted"
    assert tiny.do(run_dir).outcome == "done"
    assert len(run_dir.attempts()) == 3
    tiny.assert_same(run_dir, calm)
