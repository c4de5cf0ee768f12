"""Find collapsed tokenizers: their codes hardly differ, so any generator predicts them."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

USAGE: Final = ("codebook_usage", "code_usage_train", "codes_code_usage_train", "code_usage")
LEAST_SHARE: Final = 0.05  # of the codebook in use; a healthy VQ has .3 or more


def collapsed(frame: pd.DataFrame, arm_n: np.ndarray) -> dict[str, str]:
    """Return arm -> the sentence about its collapsed tokenizers, from recorded code usage.

    `arm_n` names the arm of each row. An arm is in it when the median of its rows is below
    `LEAST_SHARE`.
    """
    column = next((name for name in USAGE if name in frame.columns), None)
    if column is None:
        return {}
    share = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    found = {}
    for arm in dict.fromkeys(str(one) for one in arm_n):
        mine = share[(arm_n.astype(str) == arm) & np.isfinite(share)]
        if not len(mine) or np.median(mine) >= LEAST_SHARE:
            continue
        text = f"{arm} uses {np.median(mine):.1%} of its codebook"
        if "codebook_size" in frame.columns:
            sizes = pd.to_numeric(frame["codebook_size"], errors="coerce")[arm_n.astype(str) == arm]
            if sizes.notna().any():
                size = float(sizes.median())
                text += (
                    f", about {max(1, round(size * float(np.median(mine))))} of {size:.0f} codes"
                )
        found[arm] = f"{text}: the tokenizer has collapsed, and a low loss comes from that"
    return found
