import gc
import subprocess
import sys

import pytest
import torch

from tokenlaw.results_db import processes
from tokenlaw.trainer.fast_start import startup


def test_the_collector_is_paused_and_then_as_before():
    assert gc.isenabled()
    with processes.collector_paused():
        assert not gc.isenabled()
        with processes.collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), processes.collector_paused():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("kind", "compiled", "found"),
    [
        ("generator", True, ["torch._dynamo", "torch._inductor.compile_fx"]),
        ("generator", False, []),
        ("evaluation", False, []),
    ],
)
def test_only_what_a_run_needs_is_imported(kind, compiled, found):
    code = (
        "import sys, torch; from tokenlaw.trainer.fast_start import startup; "
        f"startup.get_ready({kind!r}, torch.device('cpu'), {compiled}); "
        "print([m for m in ('torch._dynamo', 'torch._inductor.compile_fx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found)


def test_what_stops_the_device_from_opening_is_said(monkeypatch):
    def refuse(device):
        raise RuntimeError("no such device")

    monkeypatch.setattr(startup, "_open", refuse)
    with pytest.raises(RuntimeError, match="no such device"):
        startup.get_ready("evaluation", torch.device("cpu"), compiled=False)


def test_every_shape_of_a_long_worker_is_compiled(monkeypatch):
    import torch._dynamo.config as limits

    for name in ("recompile_limit", "accumulated_recompile_limit"):
        monkeypatch.setattr(limits, name, getattr(limits, name))  # put back afterwards
    startup.allow_many_shapes()
    compiled = []

    def backend(graph, example):
        compiled.append(example)
        return graph.forward

    for width in range(8, 8 * 13, 8):
        layer = torch.nn.Linear(width, width)
        layer.compile(backend=backend, dynamic=False)
        layer(torch.zeros(2, width))
    assert len(compiled) == 12
    torch._dynamo.reset()


def test_where_kernels_are_the_compiler_is_not_imported():
    code = (
        "import sys, torch; from unittest import mock; from tokenlaw.trainer import kernels\n"
        "from tokenlaw.trainer.fast_start import startup\n"
        "with mock.patch.object(kernels, 'available', return_value=True):\n"
        "    startup.get_ready('generator', torch.device('cpu'), True)\n"
        "print([m for m in ('triton', 'torch._dynamo', 'torch._inductor') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['triton']"


def test_the_share_of_activations_reaches_the_compiler(monkeypatch):
    import torch._functorch.config as functorch

    from tokenlaw.sweeps.cli.verbs.launch import settings_of
    from tokenlaw.trainer.accounting.config import decode
    from tokenlaw.trainer.run import Settings

    monkeypatch.setattr(functorch, "activation_memory_budget", 1.0)
    settings = decode(Settings, settings_of("cpu", activation_memory=0.25), where="settings")
    cpu = torch.device("cpu")
    startup.get_ready("generator", cpu, True, settings.activation_memory)
    assert functorch.activation_memory_budget == 0.25
    startup.get_ready("generator", cpu, True, Settings().activation_memory)
    assert functorch.activation_memory_budget == 1.0
