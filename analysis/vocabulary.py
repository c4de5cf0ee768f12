"""The words of this field that several modules share: reference arms, FLOP columns, labels.

No matplotlib here, so that commands without a picture stay fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Arms that others are compared with, in this order: what a user calls so, then what papers do.
BASELINES: Final = ("baseline", "reference", "vq", "vqgan", "constant")


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """Counting rule of a FLOPs column of the study table."""

    rule: str  # as results carry it
    label: str  # as axes show it


FLOPS_RULES: Final[dict[str, Flops]] = {
    "flops_train": Flops(
        rule="6ND_tokens_matmul+attention", label="train FLOPs (6ND over tokens + attention)"
    ),
    "flops_total": Flops(
        rule="6ND_tokens_matmul+attention, ancestors included",
        label="train FLOPs with tokenizer and codes",
    ),
    "flops_paper": Flops(
        rule="6N_images",
        label="6 \N{MULTIPLICATION SIGN} params \N{MULTIPLICATION SIGN} images "
        "(axis of the CRT paper)",
    ),
    "flops_sample": Flops(rule="inference of one image", label="inference FLOPs per image"),
}

# Labels of columns that are not their own name with spaces.
LABELS: Final[dict[str, str]] = {
    "val_loss": "validation loss (nats/token)",
    "val_bits_per_image": "validation loss (bits/image)",
    "gfcd": "gFCD",
    "rfcd": "rFCD",
    "gfid": "gFID",
    "rfid": "rFID",
    "gfid_clip": "gFID on CLIP features",
    "inception_score": "Inception score",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "params": "generator parameters",
    "tokenizer_params": "tokenizer parameters",
    "num_train": "training images",
    "cfg_scale": "guidance scale",
}


def heading(text: str) -> str:
    """Return `text` with a capital, unless it begins with a name in its own letters (gFID)."""
    return text[:1].upper() + text[1:] if text[:2].islower() else text


def natural(name: object) -> tuple[tuple[int, float, str], ...]:
    """Return the sort key by which `vq-2k` comes before `vq-16k`."""
    words = re.split(r"(\d+(?:\.\d+)?)", str(name))
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}
    key: list[tuple[int, float, str]] = []
    for index, word in enumerate(words):
        if index % 2:
            after = words[index + 1][:1].lower() if index + 1 < len(words) else ""
            key.append((1, float(word) * scale.get(after, 1.0), ""))
        else:
            key.append((0, 0.0, word))
    return tuple(key)


def arm_order(arms: Iterable[object]) -> list[str]:
    """Return the distinct arm names, baselines first, the rest in natural order.

    The order of rows does not matter. The first one is the reference of gains.
    """
    known = {name: place for place, name in enumerate(BASELINES)}
    distinct = {str(arm) for arm in arms}
    return sorted(distinct, key=lambda arm: (known.get(arm.lower(), len(known)), natural(arm)))
