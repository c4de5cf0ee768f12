"""Compiling in processes of their own, for a GPU that need not be there: the file runs itself, for
a driver of Triton's and a cache of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SM90 = ("cuda", 90, 32)


def begin(case: str, folder: Path) -> subprocess.Popen[str]:
    pytest.importorskip("triton", reason="triton is not installed (it comes with torch for GPUs)")
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(place for place in places if place),
    }
    command = [sys.executable, __file__, case]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


@pytest.mark.parametrize("case", ["all_kernels_of_a_run", "what_goes_wrong_is_said"])
def test_compiles_ahead(case, tmp_path):
    process = begin(case, tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output == "well\n"


def test_ends_with_its_parent_only(tmp_path):
    process = begin("signals", tmp_path)
    compiling = int(process.stdout.readline())
    assert process.stdout.readline() == "answered after signals\n"
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{compiling}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ------------------------------------------------------------------------------ in the process


def all_kernels_of_a_run():
    """Training steps and the validation loss find all that they launch in the cache."""
    import torch
    import triton

    from tokenlaw.trainer.accounting.config import GeneratorConfig, LlamaConfig, NumericsConfig
    from tokenlaw.trainer.fast_start import ahead, compiler
    from tokenlaw.trainer.loop import cross_entropy
    from tokenlaw.trainer.models.llama import Generator

    model = LlamaConfig(width=48, layers=2, heads=2)
    config = GeneratorConfig(
        model=model,
        iterations=1,
        numerics=NumericsConfig(precision="bf16"),
        float8_ffn=True,
        mask_illegal=True,
    )
    compiler.start()
    with mock.patch("tokenlaw.trainer.fast_start.ahead.available", return_value=True):
        assert ahead.compile_generator(config, 50, 16, torch.device("cuda"))() is None

    launch, found = triton.JITFunction.run, []

    def compiled_only(kernel, *arguments, warmup, **options):
        return launch(kernel, *arguments, warmup=True, **options)

    def listen(*, src, cache_hit, **_):
        found.append((src.fn.__module__, src.fn.__name__, cache_hit))

    def product(a, b, dtype, exact_sums):
        return torch.zeros(len(a[0]), len(b[0]), dtype=dtype)

    triton.runtime.driver.set_active(compiler.Standin(*SM90))
    triton.knobs.compilation.listener = listen
    code_BL, class_B = torch.randint(50, (4, 16)), torch.arange(4)
    illegal = torch.zeros(64, 50, dtype=torch.bool)
    generator = Generator(model, 50, 5, (4, 4))
    with (
        mock.patch("tokenlaw.trainer.models.llama.usable", return_value=True),
        mock.patch("tokenlaw.trainer.loop.cross_entropy.usable", return_value=True),
        mock.patch("tokenlaw.trainer.kernels.float8.usable", return_value=True),
        mock.patch("tokenlaw.trainer.kernels.float8.product", product),
        mock.patch.object(triton.JITFunction, "run", compiled_only),
    ):
        for mask in (None, illegal):
            with torch.autocast("cpu", torch.bfloat16):
                hidden = generator.hidden(code_BL[:, :-1], class_B).flatten(0, 1)
            codes = code_BL.flatten()
            cross_entropy.chunked(hidden, generator.head.weight, codes, mask)[0].backward()
            generator.use_float8()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            generator.eval().hidden(code_BL[:, :-1], class_B)
    assert len(found) >= 18, found
    assert all(hit for *_, hit in found), found


def what_goes_wrong_is_said():
    from tokenlaw.trainer.fast_start import compiler

    pid = compiler.start()
    assert compiler.start() is None
    assert asked(fail) == "ZeroDivisionError: division by zero"
    assert asked(tasks_for_dying_processes).startswith("BrokenProcessPool: ")
    left = compiler.ask(list, "cuda")  # by a run that failed meanwhile
    assert asked(fail) == "ZeroDivisionError: division by zero"
    del left
    assert asked(list) is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert asked(list).startswith("the compiling process: ")
    assert asked(fail) is None  # it is not asked any more


def signals():
    from tokenlaw.trainer.fast_start import compiler

    pid = compiler.start()
    print(pid, flush=True)
    assert asked(list) is None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)
    assert asked(list) is None
    print("answered after signals", flush=True)
    time.sleep(60)


def asked(make_tasks):
    from tokenlaw.trainer.fast_start import compiler

    return compiler.ask(make_tasks, "cuda")()


def fail():
    return [lambda: 1 / 0]


def tasks_for_dying_processes():
    from tokenlaw.trainer.accounting.config import GeneratorConfig, LlamaConfig
    from tokenlaw.trainer.fast_start import ahead, compiler

    compiler._compile = die
    model = LlamaConfig(width=48, layers=2, heads=2)
    return ahead.generator_tasks(GeneratorConfig(model=model, iterations=1), 50, 16)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with mock.patch("torch.cuda.get_device_capability", return_value=(9, 0)):
        globals()[sys.argv[1]]()
    print("well")
