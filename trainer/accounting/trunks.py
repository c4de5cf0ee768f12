"""Constant-rate trunks of the warm-up, stable, decay schedule: shared by runs of any length.

Batches, seeds and weights of losses are functions of the step, and so is a learning rate that does
not decay yet. Runs that differ in their number of iterations (and in their decay) are therefore one
and the same up to the first decay: the trunk. It is trained in segments, each of which leaves its
whole state; a branch takes over the state at its branch point and does the decay. No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ...results_db.state import TRUNK
from .config import GeneratorConfig, OptimConfig, Part, TokenizerConfig, TrunkConfig, is_segment
from .identity import RunIds
from .learning_rate import wsd_decay_start

ROLE = TRUNK  # of the parent whose state a run takes over

Config = TokenizerConfig | GeneratorConfig


def optimizers(config: Config) -> list[OptimConfig]:
    """The settings of every optimiser of a run."""
    found = [config.optim]
    if isinstance(config, TokenizerConfig):
        parts = (config.regularizer, config.adversarial)
        found += [part.config.optim_for(config.optim) for part in parts if part is not None]
    return found


def branch_point(config: Config) -> int:
    """The first iteration that depends on the number of iterations: where a run leaves its trunk.

    0 when it has no trunk: another schedule than wsd, also of a discriminator or a regulariser with
    settings of its own (a constant rate of theirs does no harm).
    """
    if config.optim.schedule != "wsd":
        return 0
    points = []
    for optim in optimizers(config):
        if optim.weight_decay_end is not None:  # follows the number of iterations from the first on
            points.append(0)
        elif optim.schedule == "wsd":
            points.append(wsd_decay_start(optim, config.iterations))
        elif optim.schedule != "constant":
            points.append(0)
    if len(points) > 1:
        rates = [_constant(optim) for optim in optimizers(config)]
        if rates != optimizers(segment(config, start=0, end=1)):
            return 0  # a part makes its optimiser of the schedule in a way of its own
    # A branch has at least one iteration, so that it ends with a training loss of its own.
    return min(*points, config.iterations - 1)


def branch(config: Config) -> Config:
    """The run that leaves the trunk of a run with a branch point."""
    trunk = TrunkConfig(role="branch", start=branch_point(config))
    return dataclasses.replace(config, trunk=trunk)


def segment(config: Config, *, start: int, end: int) -> Config:
    """The piece of the trunk of a run, or of another piece, from iteration `start` up to `end`."""
    trunk = TrunkConfig(role="segment", start=start)
    optim = _constant(config.optim)
    if isinstance(config, GeneratorConfig):
        return dataclasses.replace(config, iterations=end, optim=optim, trunk=trunk)
    return dataclasses.replace(
        config,
        iterations=end,
        optim=optim,
        trunk=trunk,
        regularizer=_constant_part(config.regularizer),
        adversarial=_constant_part(config.adversarial),
    )


def _constant_part(part: Part | None) -> Part | None:
    if part is None:
        return None
    values = {f.name: getattr(part.config, f.name) for f in dataclasses.fields(part.config)}
    own = {name: _constant(v) for name, v in values.items() if isinstance(v, OptimConfig)}
    return dataclasses.replace(part, config=dataclasses.replace(part.config, **own))


def _constant(optim: OptimConfig) -> OptimConfig:
    """wsd up to its decay. The settings of the decay get fixed values, so that runs that differ in
    them alone share a trunk.
    """
    if optim.schedule != "wsd":
        return optim
    return dataclasses.replace(
        optim,
        schedule="constant",
        lr_end_share=0.0,
        hold_share=0.0,
        milestones=(),
        milestone_factor=0.1,
        decay_share=0.2,
        decay_shape="1-sqrt",
    )


def trunk_id(
    kind: str, config: Config, parents: Mapping[str, str], ids: RunIds | None = None
) -> str | None:
    """What all segments and branches of one trunk have in common; None for a run without one.

    It is the id that a segment of one iteration would have. `ids` serves many runs faster.
    """
    if config.trunk is None:
        return None
    others = {role: parent for role, parent in parents.items() if role != ROLE}
    return (ids or RunIds()).of(kind, segment(config, start=0, end=1), others)


def check_parent(
    kind: str,
    config: Config,
    parents: Mapping[str, str],
    trunk: tuple[Config, Mapping[str, str]] | None,
) -> None:
    """ValueError unless a run may take over the state of its parent `trunk`, whose config and
    parents are given (None: it has no such parent).
    """
    if config.trunk is None or config.trunk.start == 0:
        if trunk is not None:
            raise ValueError("parents.trunk: is for runs that take over a trunk at trunk.start")
        return
    start = config.trunk.start
    if trunk is None:
        raise ValueError(f"trunk.start: {start} needs a parent `trunk` that ends there")
    found, its_parents = trunk
    if not is_segment(found) or found.iterations != start:
        raise ValueError(
            f"parents.trunk: is not a segment that ends at iteration {start}, as trunk.start says"
        )
    if trunk_id(kind, found, its_parents) != trunk_id(kind, config, parents):
        raise ValueError("parents.trunk: is a segment of another trunk")
    if config.trunk.role == "branch" and start > branch_point(config):
        raise ValueError(
            f"trunk.start: {start} is after the decay begins at {branch_point(config)}"
        )
