"""A small plan, and what tests ask of its runs' folders."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tokenlaw.sweeps.graph import Member
from tokenlaw.sweeps.planned import Plan, PlannedRun
from tokenlaw.trainer.accounting.config import NumericsConfig

FAKE_TRAINER = Path(__file__).with_name("fake_trainer.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeConfig:
    """What the planner's configs have in common with one another, as far as launching goes."""

    name: str
    numerics: NumericsConfig = NumericsConfig()


def planned(kind: str, name: str, parents: dict[str, str] | None = None, hours: float = 0.001):
    """A planned run whose id is made from its name."""
    return PlannedRun(
        id=hashlib.sha256(f"{kind}{name}".encode()).hexdigest()[:16],
        kind=kind,
        config=FakeConfig(name=name),
        parents=parents or {},
        members=(Member(arm="vq", axes={}, primary=True),),
        params=None,
        params_non_embedding=None,
        flops_train=0,
        flops_paper=None,
        gpu_hours=hours,
        hours_source="default",
        state="planned",
    )


def two_stage_plan(generators: int = 2, tokenizers: int = 1) -> Plan:
    """Tokenizers, their codes, generators, and an evaluation of each generator."""
    runs = []
    for t in range(tokenizers):
        tokenizer = planned("tokenizer", f"t{t}")
        codes = planned("codes", f"c{t}", {"tokenizer": tokenizer.id})
        runs += [tokenizer, codes]
        for g in range(generators):
            generator = planned(
                "generator", f"g{t}.{g}", {"codes": codes.id}, hours=0.001 * (g + 1)
            )
            parents = {"generator": generator.id, "codes": codes.id, "tokenizer": tokenizer.id}
            runs += [generator, planned("evaluation", f"e{t}.{g}", parents)]
    return Plan(study="toy", runs=tuple(runs))


def folder(home: Path, run: PlannedRun) -> Path:
    return home / run.kind / run.id


def attempts(home: Path, run: PlannedRun) -> int:
    """How many attempts were made at a run."""
    return len([p for p in (folder(home, run) / "attempts").glob("*.json") if p.stem.isdigit()])
