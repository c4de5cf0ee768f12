"""The cautions that values carry, as lines for those who read a table."""

from __future__ import annotations

import pandas as pd


def cautions(frame: pd.DataFrame) -> list[str]:
    """Return "METRIC: reason (n rows)" for each reason of a long or wide table to distrust values.

    A wide table has them in columns METRIC_caution, a long one in the provenance.
    """
    counts: dict[str, int] = {}
    if "provenance" in frame.columns:
        pairs = [
            (metric, provenance.get("caution"))
            for metric, provenance in zip(frame["metric"], frame["provenance"], strict=True)
            if isinstance(provenance, dict)
        ]
    else:
        columns = [name for name in frame.columns if str(name).endswith("_caution")]
        pairs = [(name.removesuffix("_caution"), text) for name in columns for text in frame[name]]
    for metric, text in pairs:
        if isinstance(text, str):
            line = f"{metric}: {text}"
            counts[line] = counts.get(line, 0) + 1
    return [f"{line} ({count} row{'' if count == 1 else 's'})" for line, count in counts.items()]
