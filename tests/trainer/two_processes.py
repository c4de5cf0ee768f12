"""One of two gloo processes: each takes half of a batch, and rank 0 prints what came out.

Run by test_allreduce.py as `python two_processes.py RANK MEETING_FILE`.
"""

import json
import sys
from unittest import mock

import torch
import torch.distributed as td

from tokenlaw.trainer.losses._gan import adaptive_weight
from tokenlaw.trainer.losses.patchgan import Config, Loss
from tokenlaw.trainer.quantizers import vq
from tokenlaw.trainer.quantizers._entropy import entropy_penalty


def measure(rank: int, world: int) -> dict[str, list[float]]:
    """Losses and gradients of this process's share, averaged over processes as the loops do."""
    torch.manual_seed(0)
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    real, fake = torch.randn(4, 3, 16, 16)[share], torch.randn(4, 3, 16, 16)[share]
    z_BND, codebook_KD = torch.randn(4, 9, 8)[share], torch.randn(20, 8, requires_grad=True)

    found: dict[str, torch.Tensor] = {}
    for config in (
        Config(ndf=4, n_layers=2, objective="hinge", lecam_weight=0.1),
        Config(ndf=4, n_layers=2, objective="wgan_gp", gradient_penalty=1.0),
    ):
        torch.manual_seed(1)
        loss = Loss(config)
        # The penalty's random points would differ between one process and two.
        with mock.patch.object(torch, "rand", lambda *shape, device: torch.full(shape, 0.5)):
            value, stats = loss.discriminator_loss(real, fake)
        value.backward()
        found[f"{config.objective} loss"] = value.detach()[None]
        found[f"{config.objective} gradient"] = torch.cat(
            [p.grad.flatten() for p in loss.parameters() if p.grad is not None]
        )
        found[f"{config.objective} average"] = loss.ema_real[None]

    last = torch.ones(3, requires_grad=True)
    own = torch.arange(1.0, 5.0)[share]  # each process has gradients of another size
    factor = adaptive_weight((own.square().mean() * last).sum(), (own.mean() * last).sum(), last)
    found["adaptive weight"] = factor[None]

    quantizer = vq.Quantizer(vq.Config(codebook_size=32))
    stats = quantizer(z_BND, 0).stats
    penalty = entropy_penalty(z_BND.flatten(0, 1), codebook_KD, 0.5, "dot")
    penalty.backward()
    found["penalty"] = penalty.detach()[None]
    assert codebook_KD.grad is not None
    found["penalty gradient"] = codebook_KD.grad.flatten()
    for name in ("usage", "perplexity"):
        found[name] = stats[name][None]
    if world > 1:
        for tensor in found.values():
            td.all_reduce(tensor)
            tensor /= world
    return {name: tensor.tolist() for name, tensor in found.items()}


if __name__ == "__main__":
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    result = measure(rank, 2)
    if rank == 0:
        print(json.dumps(result))
    td.destroy_process_group()
