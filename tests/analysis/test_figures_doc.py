"""docs/figures.md says what the figures are, and its example of a new figure works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import fixture_table
import pytest

from tokenlaw.analysis import figures as folder
from tokenlaw.analysis.drawing import index
from tokenlaw.trainer import parts

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "figures.md").read_text()


def test_the_table_lists_every_figure_with_its_columns() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, flags=re.M))
    figures = {name: row for name, row in rows.items() if row.count(" | ") == 2}
    assert set(figures) == set(parts.names("figures"))
    for name, row in figures.items():
        module = parts.load("figures", name)
        cell = row.split(" | ")[1]
        needed = [column for column in module.NEEDS if column not in ("arm", "run_id")]
        assert all(f"`{column}`" in cell for column in needed), name
        assert vars(module).get("USES_VECTORS", False) == ("arrays" in cell), name


def test_the_example_is_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)[-1]
    (tmp_path / "psnr_vs_usage.py").write_text(code)
    folder.__path__.append(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tokenlaw.analysis.figures.psnr_vs_usage", raising=False)
    parts.names.cache_clear()
    try:
        table = fixture_table.table()
        (drawn,) = index.draw_all(table, tmp_path / "out", ("psnr_vs_usage",), dpi=50)
    finally:
        folder.__path__.remove(str(tmp_path))
        parts.names.cache_clear()
    assert drawn.status == "drawn"
    assert len(drawn.files) == 3
    assert len(drawn.run_ids) == 47
    sys.modules.pop("tokenlaw.analysis.figures.psnr_vs_usage", None)
