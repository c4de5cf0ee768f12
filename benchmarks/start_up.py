"""Seconds from the start of a process to the end of a generator's first step, phase by phase.

    python benchmarks/start_up.py [--generators 111M 343M] [--tiny]

For each generator twice, in a process of its own: with an empty compile cache, and with the one
that the first left. What the trainer does, without run folders; batch 256 x 256 tokens on a GPU.
`--tiny` is the same at sizes for a CPU, where nothing is compiled.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generators", nargs="+", default=["111M"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.began is not None:
        first_step(chosen.generators[0], chosen.tiny, chosen.began)
        return
    for size in chosen.generators:
        with tempfile.TemporaryDirectory(prefix="tokenlaw-bench-") as folder:
            environment = {**os.environ, "TRITON_CACHE_DIR": folder}
            for cache in ("cold", "warm"):
                print(f"{size}, compile cache: {cache}", flush=True)
                command = [sys.executable, sys.argv[0], "--generators", size]
                command += ["--tiny"] if chosen.tiny else []
                command.append(f"--began={time.time()}")
                subprocess.run(command, env=environment, check=True)


def first_step(size: str, tiny: bool, began: float) -> None:
    last = began

    def stamp(phase: str) -> None:
        nonlocal last
        now = time.time()
        print(f"{now - began:>8.2f} s  +{now - last:>6.2f}  {phase}", flush=True)
        last = now

    import torch

    stamp("torch")
    from generator_step import CLASSES, make_step

    from tokenlaw.trainer.accounting import counts as count
    from tokenlaw.trainer.accounting.config import GeneratorConfig, LlamaConfig, NumericsConfig
    from tokenlaw.trainer.fast_start import compiler, startup
    from tokenlaw.trainer.fast_start.ahead import compile_generator

    stamp("trainer")
    if not tiny:
        compiler.start()
    device = torch.device("cpu" if tiny else "cuda:0")
    startup.get_ready("generator", device, compiled=not tiny)
    stamp("device, triton")
    batch, length, codes = (8, 16, 256) if tiny else (256, 256, 16_384)
    model = count.generators()[f"llama-{size}"]
    if tiny:
        model = LlamaConfig(width=64, layers=3, heads=2)
    numerics = NumericsConfig(precision="bf16")
    config = GeneratorConfig(model=model, iterations=1, numerics=numerics)
    kernels_ready = compile_generator(config, codes, length, device)
    torch.set_float32_matmul_precision("high")
    code_BL = torch.randint(codes, (batch, length), device=device)
    class_B = torch.randint(CLASSES, (batch,), device=device)
    step = make_step(model, codes, code_BL, class_B)
    stamp("weights, optimiser")
    if (reason := kernels_ready()) is not None:
        print(f"not compiled ahead: {reason}", flush=True)
    stamp("kernels, which others compiled since the device opened")
    for name in ("first step", "second step"):
        step().item()
        stamp(name)


if __name__ == "__main__":
    main()
