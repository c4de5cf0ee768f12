import collections
import json
import math
import shutil

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch

from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.trainer.accounting import flops
from tokenlaw.trainer.accounting.code_statistics import code_statistics
from tokenlaw.trainer.accounting.codebook_schedules import codebook_sizes as vcq_sizes
from tokenlaw.trainer.accounting.config import DataConfig, decode, decode_run
from tokenlaw.trainer.kinds import codes as encode
from tokenlaw.trainer.loop import data
from tokenlaw.trainer.loop.code_sets import Codes, train_subset
from tokenlaw.trainer.loop.optim import derive_seed
from tokenlaw.trainer.models import build
from tokenlaw.trainer.run import Settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tokenizer and its codes, five crops of 64 images."""
    return tiny.codes_chain(tmp_path_factory.mktemp("home"))


# ------------------------------------------------------------ the codes


def test_codes_are_those_of_the_tokenizer(finished):
    tokenizer_dir, codes_dir = finished
    codes = Codes(codes_dir)
    assert (codes.codebook_size, codes.tokens_per_image, codes.grid) == (32, 16, (4, 4))
    assert codes.num_classes == 10
    train_NCL, train_labels = codes.split("train")
    val_NCL, val_labels = codes.split("val")
    assert train_NCL.shape == (64, 5, 16) and val_NCL.shape == (360, 1, 16)
    assert train_NCL.dtype == np.uint16
    tokenizer, quantizer, _ = build.load_tokenizer(tokenizer_dir, torch.device("cpu"))
    config = decode(DataConfig, tiny.data())
    chosen = train_subset(config.num_train, 64)
    images = data.open_images(config, Settings(), "train")
    with torch.no_grad():
        for place in (0, 17, 63):
            crops = images.crops(int(chosen[place]), "five_crop", 1.25)
            code_BN = quantizer(tokenizer.encode(data.to_float(crops)), 0).code_BN
            # The same weights in another batch size: at most a near-tie may fall the other way.
            assert (code_BN.numpy() == train_NCL[place]).mean() > 0.97
    assert np.array_equal(train_labels, images.labels[chosen].numpy())
    # Not trivially equal: several codes are in use and crops differ.
    assert len(np.unique(train_NCL)) > 3
    assert (train_NCL[:, 0] != train_NCL[:, 4]).any()
    assert len(np.unique(val_labels)) == 10


def test_endpoint_counts_and_costs(finished):
    tokenizer_dir, codes_dir = finished
    endpoint = read_endpoint(codes_dir)
    train_NCL, _ = Codes(codes_dir).split("train")
    values = {value["metric"]: value["value"] for value in endpoint["values"]}
    assert values["code_usage_train"] == len(np.unique(train_NCL)) / 32
    columns = endpoint["columns"]
    assert (columns["tokens_per_image"], columns["codebook_size"]) == (16, 32)
    config = decode_run("tokenizer", tokenizer_dir.config()["config"])
    encoder = flops.tokenizer_cost(config).encoder.macs
    assert columns["flops_train"] == 2 * encoder * (64 * 5 + 360)
    assert columns["flops_ancestors"] == read_endpoint(tokenizer_dir)["columns"]["flops_train"]
    assert columns["flops_total"] == columns["flops_train"] + columns["flops_ancestors"]
    listed = {artifact["name"] for artifact in endpoint["artifacts"]}
    assert listed == {"entropy.npz", "code_counts.npz", "codes-manifest"}
    stored = np.load(codes_dir.artifacts_path / "code_counts.npz")["pooled"]
    assert np.array_equal(stored, np.bincount(train_NCL.ravel(), minlength=32))


def test_manifest_says_how_the_codes_were_made(finished):
    tokenizer_dir, codes_dir = finished
    manifest = json.loads((codes_dir.path / "codes" / "manifest.json").read_text())
    assert manifest["tokenizer"] == tokenizer_dir.id
    assert (manifest["crops"], manifest["crop_ratio"]) == ("five_crop", 1.25)
    assert manifest["num_images"] == {"train": 64, "val": 360}
    assert [shard["file"] for shard in manifest["shards"]["train"]] == ["train-00000.npy"]


def test_large_codebooks_take_four_bytes(home):
    # 70,000 codes of two dimensions: their numbers do not fit 16 bits.
    quantizer = tiny.part("vq", codebook_size=70_000, dim=2)
    tree = tiny.tokenizer(adversarial=None, iterations=1, quantizer=quantizer, batch_size=1)
    _, codes_dir = tiny.codes_chain(home, tree, crops="center", num_train=16)
    codes, _ = Codes(codes_dir).split("train")
    assert codes.dtype == np.uint32 and codes.max() > 65_535


@pytest.mark.parametrize(
    ("crops", "wanted", "compiled", "expected"),
    [
        ("ten_crop", 64, True, 60),
        ("ten_crop", 64, False, 64),
        ("five_crop", 64, True, 60),
        ("center", 64, True, 64),
        ("ten_crop", 8, True, 8),
    ],
)
def test_compiled_batches_are_the_crops_of_whole_images(crops, wanted, compiled, expected):
    config = decode_run("codes", tiny.codes(crops=crops, batch_size=wanted))
    assert encode._batch_size(config, compiled) == expected


def test_compiled_code_sees_one_shape_and_makes_the_same_codes(finished, monkeypatch):
    shapes = set()

    def compile(function):
        def counted(x_BCHW):
            shapes.add(tuple(x_BCHW.shape))
            return function(x_BCHW)

        return counted

    monkeypatch.setattr(torch, "compile", compile)
    cpu = torch.device("cpu")
    tokenizer, quantizer, _ = build.load_tokenizer(finished[0], cpu)
    images = data.open_images(decode(DataConfig, tiny.data()), Settings(), "val")
    batches = images.center(torch.arange(30)).split(11)
    plain, compiled = (
        list(
            encode.Coder(
                tokenizer, quantizer, cpu, bf16=False, batch_size=4, compiled=compiled
            ).of_each(batches)
        )
        for compiled in (False, True)
    )
    assert shapes == {(4, 3, 16, 16)}
    assert [piece.shape for piece in compiled] == [(11, 16), (11, 16), (8, 16)]
    assert len(np.unique(plain[0])) > 3
    for expected, found in zip(plain, compiled, strict=True):
        assert np.array_equal(found[:8], expected[:8])
        # Batches that were filled up are of another size, so a near-tie may fall the other way.
        assert (found == expected).mean() > 0.97


# ------------------------------------------------------------ shards, resuming


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(encode, "SHARD_IMAGES", 100)


def begin(home, finished):
    """A codes run that nobody has begun, in a home where its tokenizer is finished."""
    tokenizer_dir, _ = finished
    parent = RunDir.of(home, "tokenizer", tokenizer_dir.id)
    shutil.copytree(tokenizer_dir.path, parent.path)
    changes = {"crops": "center", "num_train": 250, "batch_size": 50}
    return tiny.lay_out(home, "codes", tiny.codes(**changes), {"tokenizer": parent})


@pytest.fixture(scope="module")
def calm(tmp_path_factory, finished):
    """The same run, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "SHARD_IMAGES", 100)
        run_dir = begin(tmp_path_factory.mktemp("calm"), finished)
        assert tiny.do(run_dir).outcome == "done"
    return run_dir


@pytest.mark.parametrize(("polls", "shards"), [(1, 0), (3, 1), (8, 4), (12, 6)])
def test_a_stopped_run_goes_on_at_its_shard(polls, shards, home, small_shards, finished, calm):
    run_dir = begin(home, finished)
    outcome = tiny.do(run_dir, tiny.StopAfter(polls))
    assert (outcome.outcome, outcome.exit_code) == ("preempted", 75)
    kept = {path: path.stat().st_mtime_ns for path in (run_dir.path / "codes").glob("*-0*.npy")}
    assert len(kept) == shards
    assert tiny.do(run_dir).outcome == "done"
    tiny.assert_same(run_dir, calm)
    # What was finished was not written again.
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_a_damaged_shard_is_made_again(home, small_shards, finished, calm):
    run_dir = begin(home, finished)
    assert tiny.do(run_dir, tiny.StopAfter(8)).outcome == "preempted"
    shard = run_dir.path / "codes" / "train-00001.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    (run_dir.path / "codes" / "train-00000.npy").unlink()
    assert tiny.do(run_dir).outcome == "done"
    tiny.assert_same(run_dir, calm)


def test_shards_join_to_the_same_codes(home, finished, calm):
    one = begin(home, finished)
    assert tiny.do(one).outcome == "done"
    assert len(Codes(one).manifest["shards"]["train"]) == 1
    assert len(Codes(calm).manifest["shards"]["train"]) == 3
    for split in ("train", "val"):
        for first, second in zip(Codes(one).split(split), Codes(calm).split(split), strict=True):
            # Batches end elsewhere, so a near-tie may fall the other way.
            assert (first == second).mean() > 0.99


# ------------------------------------------------------------ the subsets


def test_training_subsets_are_nested():
    assert torch.equal(train_subset(50, None), torch.arange(50))
    previous = set()
    for wanted in (1, 5, 20, 49, 50):
        chosen = train_subset(50, wanted).tolist()
        assert chosen == sorted(set(chosen)) and len(chosen) == wanted
        assert previous <= set(chosen)
        previous = set(chosen)
    with pytest.raises(ValueError, match="num_train: 51 .* 50 images"):
        train_subset(50, 51)


# ------------------------------------------------------------ statistics


def entropy(counts):
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts)


def brute_force(codes_NL, num_codes):
    """The definitions, with Python's counters."""
    rows = [tuple(row) for row in codes_NL.tolist()]
    length = len(rows[0])
    found = {"entropy_bits": [], "num_seen": [], "conditional_entropy_bits": []}
    found["unique_prefix_share"] = []
    for t in range(length):
        column = collections.Counter(row[t] for row in rows)
        prefix = collections.Counter(row[:t] for row in rows)
        longer = collections.Counter(row[: t + 1] for row in rows)
        found["entropy_bits"].append(entropy(column.values()))
        found["num_seen"].append(len(column))
        conditional = entropy(longer.values()) - entropy(prefix.values())
        found["conditional_entropy_bits"].append(conditional)
        unique = sum(count == 1 for count in longer.values()) / len(rows)
        found["unique_prefix_share"].append(unique)
    pooled = collections.Counter(code for row in rows for code in row)
    found["entropy_pooled_bits"] = entropy(pooled.values())
    found["pooled_counts"] = [pooled[code] for code in range(num_codes)]
    return found


@pytest.mark.parametrize(("images", "length", "num_codes"), [(40, 6, 3), (300, 5, 2), (30, 4, 900)])
def test_statistics_equal_their_definitions(images, length, num_codes):
    draws = np.random.default_rng(0)
    codes_NL = draws.integers(0, num_codes, (images, length)).astype(np.uint16)
    codes_NL[:, 2] = codes_NL[:, 1]  # a position that its prefix decides
    found = code_statistics(codes_NL, num_codes)
    for name, expected in brute_force(codes_NL, num_codes).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-9, err_msg=name)
    assert found["num_sequences"] == images
    assert found["conditional_entropy_bits"][2] == pytest.approx(0, abs=1e-12)


def test_shuffling_across_images_forgets_what_decides_a_position():
    draws = np.random.default_rng(1)
    codes_NL = draws.integers(0, 2, (4000, 4)).astype(np.uint16)
    codes_NL[:, 2] = codes_NL[:, 1]
    found = code_statistics(codes_NL, 2)
    assert found["conditional_entropy_bits"][2] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found["conditional_entropy_permuted_bits"], 1, atol=0.01)
    assert found["conditional_entropy_permuted_bits"][0] == found["entropy_bits"][0]


def test_one_code_everywhere_has_no_entropy():
    found = code_statistics(np.zeros((9, 4), np.uint16), 5)
    assert found["entropy_pooled_bits"] == 0 and not found["entropy_bits"].any()
    assert found["unique_prefix_share"].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ("constant", [13.738, 1.871, 0.0002]),
        ("cosine", [1, 1, 1.585, 2.321, 2.802, 3.267, 2.868, 0.714, 0.051, 0.002]),
    ],
)
def test_noise_alone_falls_off_the_entropy_cliff(sizes, expected):
    # trainer.md 6.4: i.i.d. uniform codes of 50,000 images, 256 positions, 16,384 codes.
    growing = vcq_sizes("cosine", 2, 16384, 256)
    k_t = [16384] * len(expected) if sizes == "constant" else growing[: len(expected)]
    draws = np.random.default_rng(0)
    codes_NL = np.stack([draws.integers(0, k, 50_000) for k in k_t], axis=1)
    found = code_statistics(codes_NL, 16384)["conditional_entropy_bits"]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_tokenizer_that_is_loaded_draws_no_weights(tmp_path, monkeypatch):
    monkeypatch.delenv("TOKENLAW_FAST_START", raising=False)
    run_dir = tiny.done(tmp_path, "tokenizer", tiny.tokenizer(iterations=1))
    tokenizer, quantizer, config = build.load_tokenizer(run_dir, torch.device("cpu"))
    drawn = torch.get_rng_state()
    torch.manual_seed(derive_seed("stage1 init", config.seed))
    assert torch.equal(torch.get_rng_state(), drawn)
    stored = safetensors.torch.load_file(run_dir.path / "final" / "autoencoder.safetensors")
    both = torch.nn.ModuleDict({"tokenizer": tokenizer, "quantizer": quantizer}).state_dict()
    assert both.keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in both.items())
