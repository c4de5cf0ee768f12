"""Sampling of growing codebooks with guidance that knows their size, and without. (VCQ, Table 8)

Paper: VCQ (arXiv 2605.06207). The generator B on the cosine schedule of `vcq_schedules` is sampled
with the cosine-power guidance times the codebook's factor (Eq. 4; gFID 4.79), and with the
cosine-power guidance alone (7.61). Own choice: the second has the scale and the exponent that
Table 7 gives for the first, since the table names none for it.

Command: tokenlaw launch vcq_guidance --on slurm --data imagefolder:IMAGENET. Expected cost: 5.3e20
train FLOPs; tokenizer, codes and generator, and one of the two evaluations, are those of
vcq_schedules.
"""

import dataclasses

from ..grid import Arm, Axis, Grid
from . import vcq_schedules

ARM = "vcq-cosine"


def study(adm_sha256: str | None = None) -> Grid:
    base = vcq_schedules.study(adm_sha256)
    of_arm = base.arm(ARM)
    (sizes,) = (axis for axis in of_arm.axes if axis.name == "size")
    point = sizes.points[0]
    smallest = Axis("size", {point.value: dict(point.assignments)})
    axes = tuple(smallest if axis.name == "size" else axis for axis in of_arm.axes)
    plain = {**of_arm.sets, "evaluations.samples.sampling.cfg_codebook": "none"}
    return dataclasses.replace(
        base,
        arms={ARM: Arm(of_arm.sets, axes), f"{ARM}-plain-guidance": Arm(plain, axes)},
    )
