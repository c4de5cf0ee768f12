"""Timing a few iterations of runs that do not exist yet."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from tokenlaw.trainer import calibrate
from tokenlaw.trainer.accounting import flops, trunks
from tokenlaw.trainer.accounting.config import decode_run, to_tree

CPU = torch.device("cpu")


def generator_job(quantizer=None, **changes):
    tokenizer = tiny.tokenizer(**({"quantizer": quantizer} if quantizer else {}))
    config = tiny.generator(**changes)
    return {"kind": "generator", "config": config, "codes": tiny.codes(), "tokenizer": tokenizer}


def measured(*jobs):
    found = calibrate.measure({"device": "cpu", "seconds": 0.0, "jobs": jobs})
    assert found["hardware"].startswith("CPU")
    return found["results"]


def test_both_stages_are_timed(monkeypatch):
    monkeypatch.setattr(calibrate, "WINDOWS", 2)
    optim = {"schedule": "wsd", "lr_peak": 1e-3}
    segment = trunks.segment(
        decode_run("generator", tiny.generator(iterations=100, optim=optim)), start=30, end=50
    )
    vcq = tiny.part("vcq", codebook_size=32, codebook_size_min=2, dim=4)
    jobs = [
        generator_job(),
        {**generator_job(vcq), "config": {**to_tree(segment), "mask_illegal": True}},
        {"kind": "tokenizer", "config": tiny.crt()},
        {"kind": "tokenizer", "config": tiny.tokenizer(), "random_images": True},
        {"kind": "tokenizer", "config": tiny.tokenizer(perceptual=tiny.part("lpips"))},
    ]
    *good, bad = measured(*jobs)
    for result in good:
        assert len(result["seconds_per_step"]) == calibrate.WINDOWS
        assert all(0 < seconds < 60 for seconds in result["seconds_per_step"])
        assert result["peak_memory_bytes"] > 1 << 20
    assert [result["unit"] for result in good] == ["tokens/s"] * 2 + ["images/s"] * 2
    assert [result["units_per_step"] for result in good] == [8 * 16] * 2 + [8] * 2
    config = decode_run("generator", tiny.generator(iterations=1))
    assert good[0]["flops_per_step"] == flops.generator_flops_train(config, 32, 16)
    assert "weights vgg16" in bad["error"]  # spares the others, and says why


def test_a_discriminator_that_starts_late_is_timed_at_work():
    late = {**tiny.PATCHGAN, "start_iteration": 1000}
    config = decode_run("tokenizer", tiny.tokenizer(adversarial=late))
    timed = calibrate.timed(config)
    assert timed.adversarial.config.weight == config.adversarial.config.weight
    assert timed.adversarial.config.gate(1) == 1
    per_step = calibrate._per_step(timed, {})["flops_per_step"]
    none = decode_run("tokenizer", tiny.tokenizer(adversarial=None, iterations=1))
    assert per_step > flops.tokenizer_flops_train(none)


def test_windows_last_as_long_as_was_asked(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: now[0])
    meter = calibrate.Meter(CPU, seconds=10.0)
    polls = 0
    with pytest.raises(calibrate.Enough):
        while True:
            assert meter.requested is False
            polls += 1
            # The first iterations are slow, as compiling ones are.
            now[0] += 50.0 if polls <= calibrate.WARMUP["cpu"] else 0.5
    assert meter.windows == pytest.approx([0.5] * calibrate.WINDOWS)
    # Warm-up, one to size the windows, and 2 s in each of the five windows.
    assert polls == calibrate.WARMUP["cpu"] + 1 + 5 * 4


def test_bad_input_is_an_answer(tmp_path, capsys):
    assert calibrate.main([]) == 2
    assert "usage" in capsys.readouterr().err
    spec, result = tmp_path / "spec.json", tmp_path / "result.json"
    spec.write_text(json.dumps({"device": "cuda:99", "seconds": 0, "jobs": []}))
    assert calibrate.main([str(spec), str(result)]) == 2
    assert json.loads(result.read_text())["error"].startswith("device: 'cuda:99' is not there")
