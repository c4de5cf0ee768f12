"""A gate added to the one text of the block is there in training and in every way to sample."""

import inspect
import textwrap

import interpreted
import pytest
import torch
from torch import nn

from tokenlaw.trainer.accounting.config import LlamaConfig, SamplingConfig
from tokenlaw.trainer.models import llama
from tokenlaw.trainer.models.llama import Block, Generator
from tokenlaw.trainer.sampling import token_step
from tokenlaw.trainer.sampling.draw import sample_uniforms

SHAPES = {
    "plain": {},
    "learned": {"position": "learned", "qk_norm": False},
    "adaln": {"adaln": True},
}
GRID, VOCABULARY, CLASSES = (2, 2), 40, 5
AFTER = "attended = ops.attend(attention, qkv)\n"
GATE = (
    "attended = attended * ops.project(self.attention_norm, self.gate, gamma1, beta1).sigmoid()\n"
)


def add_gate(patch):
    """Edit one line of the block's text: gated attention, the gate made of the normed stream."""
    text = textwrap.dedent(inspect.getsource(Block.body))
    assert text.count(AFTER) == 1
    names: dict[str, object] = {}
    exec(text.replace(AFTER, f"{AFTER}    {GATE}"), vars(llama), names)
    patch.setattr(Block, "body", names["body"])
    begin = Block.__init__

    def begin_gated(block, config):
        begin(block, config)
        block.gate = nn.Linear(config.width, config.width)

    patch.setattr(Block, "__init__", begin_gated)


def build(**options):
    torch.manual_seed(0)
    config = LlamaConfig(width=32, layers=2, heads=2, hidden_multiple=16, **options)
    generator = Generator(config, VOCABULARY, CLASSES, GRID)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return generator.eval()


@torch.inference_mode()
def logits_of_all_ways(generator):
    """Logits [B, L, V] of whole sequences, of steps with a cache, and of the recorded step."""
    class_B, length = torch.arange(3), generator.tokens_per_image
    step = token_step.TokenStep(generator, len(class_B), False, SamplingConfig())
    step.begin(class_B, sample_uniforms([1, 2, 3], length), [1.0] * length)
    recorded, logits = [], step._logits
    step._logits = lambda: recorded.append(logits()) or recorded[-1].clone()
    for _ in range(length):
        step()
    caches = generator.new_cache(len(class_B), class_B.device, torch.float32)
    class_BD, cached = generator.class_embedding(class_B), []
    for position in range(length):
        code_B = step.code_BL[:, position - 1] if position else None
        cached.append(generator.step(code_B, class_BD, caches, position))
    whole = generator(step.code_BL[:, :-1], class_B)
    return whole, torch.stack(cached, 1), torch.stack(recorded, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_gate_is_one_edit(shape, monkeypatch):
    add_gate(monkeypatch)
    generator = build(**SHAPES[shape])
    gated = logits_of_all_ways(generator)
    for found in gated[1:]:
        torch.testing.assert_close(found, gated[0], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        for block in generator.blocks:
            block.gate.bias.fill_(-50.0)  # shut
    shut = logits_of_all_ways(generator)
    for found, open_ in zip(shut, gated, strict=True):
        assert not torch.allclose(found, open_, atol=1e-2)


def test_a_gate_is_one_edit_where_kernels_run():
    assert interpreted.output(__file__) == "gated\n"


def with_kernels():
    with pytest.MonkeyPatch.context() as patch:
        add_gate(patch)
        for options in SHAPES.values():
            generator = build(**options)
            expected = logits_of_all_ways(generator)[0]
            with pytest.MonkeyPatch.context() as kernels:
                kernels.setattr(llama, "usable", lambda x: True)
                kernels.setattr(token_step, "usable", lambda x: True)
                found = logits_of_all_ways(generator)
            for logits in found:
                torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


if __name__ == "__main__":
    with_kernels()
    print("gated")
