"""Runs with the fast start off, and where torch or triton lack what it needs: equal results."""

from unittest import mock

import pytest
import tiny
import torch

from tokenlaw.trainer.fast_start import compiler, switch, undrawn
from tokenlaw.trainer.fast_start.adamw import AdamW


def chain(home):
    """A tokenizer with a GAN, its codes, a generator and reconstructions, all finished."""
    tokenizer, codes = tiny.codes_chain(home, tiny.tokenizer())
    generator = tiny.done(home, "generator", tiny.generator(), {"codes": codes})
    psnr = tiny.reconstructions(metrics=[tiny.part("psnr")])
    images = tiny.done(home, "evaluation", psnr, {"tokenizer": tokenizer, "codes": codes})
    return tokenizer, codes, generator, images


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TOKENLAW_FAST_START", raising=False)
        return chain(tmp_path_factory.mktemp("fast"))


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("TOKENLAW_FAST_START", "0")


def test_the_plain_way_ends_with_the_same_bits(fast, plain, tmp_path):
    with mock.patch(
        "torch.optim.AdamW.step", autospec=True, side_effect=torch.optim.AdamW.step
    ) as step:
        for found, expected in zip(chain(tmp_path), fast, strict=True):
            tiny.assert_same(found, expected)
    assert step.call_count >= 8, "torch's own class took no steps"


@pytest.mark.parametrize("first", ["0", "1"])
def test_one_way_goes_on_where_the_other_stopped(fast, first, tmp_path, monkeypatch):
    for calm in (fast[0], fast[2]):
        run_dir = tiny.not_begun(calm, tmp_path / calm.kind)
        monkeypatch.setenv("TOKENLAW_FAST_START", first)
        assert tiny.do(run_dir, tiny.StopAfter(2)).outcome == "preempted"
        monkeypatch.setenv("TOKENLAW_FAST_START", str(1 - int(first)))
        assert tiny.do(run_dir).outcome == "done"
        assert tiny.outputs(run_dir) == tiny.outputs(calm)


def test_off_nothing_private_is_looked_up(plain, monkeypatch):
    monkeypatch.setattr(compiler, "HAS_TRITON", True)
    monkeypatch.setattr("os.path.exists", lambda path: True)
    assert not compiler.worthwhile()
    monkeypatch.delenv("TOKENLAW_FAST_START")
    assert compiler.worthwhile()
    monkeypatch.setenv("TOKENLAW_FAST_START", "0")
    assert switch.adam() is None
    assert switch.find("torch._inductor.async_compile", "maybe_warm_pool") is None
    with undrawn.undrawn():
        layer = torch.nn.Linear(3, 3)
        assert torch.nn.init.constant_(layer.weight, 2.0).eq(2.0).all()


def test_a_missing_name_of_torch_turns_its_trick_off():
    for function in (None, lambda params, grads: None):  # gone, or of other arguments
        with mock.patch("torch.optim.adam.adam", function):
            assert switch.adam() is None
    parameter = torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [parameter], "weight_decay": 0.1}]
    with mock.patch("torch.optim.adam.adam", lambda params: None):
        optimizer = AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert list(optimizer.state) == [parameter] and not parameter.eq(1).any()


def test_this_torch_and_this_triton_have_every_name():
    assert switch.adam() is not None
    assert switch.find("torch._inductor.async_compile", "maybe_warm_pool") is not None
    pytest.importorskip("triton", reason="triton is not installed (it comes with torch for GPUs)")
    assert switch.missing_of_triton() is None
    with mock.patch.object(switch, "_OF_TRITON", (("triton", "knobs.runtime.no_such_hook"),)):
        assert switch.missing_of_triton() == "triton.knobs.runtime.no_such_hook"
    with mock.patch.object(switch, "_OF_TRITON", (("triton.no_such_module", "Name"),)):
        assert switch.missing_of_triton() == "triton.no_such_module.Name"
