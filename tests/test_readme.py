"""Hold README and docs to what is there: folders, links, the numbers behind the picture."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tokenlaw.analysis.frontiers.compare import compare
from tokenlaw.analysis.request import FrontierRequest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CAPTION = README.split("docs/images/vq-cifar10.png)")[1].split("\n## ")[0]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/*.md")


def test_every_folder_has_its_line() -> None:
    listing = README.split("## The folders")[1].split("```")[1]
    named = re.findall(r"^(\w+)/ +\S", listing, flags=re.M)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages | {"benchmarks", "docs", "tests"} == set(named)
    assert len(named) == len(set(named))


def test_links_and_pictures_lead_somewhere() -> None:
    for page in (path for pattern in PAGES for path in sorted(ROOT.glob(pattern))):
        for target, section in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", page.read_text()):
            if "://" in target:
                continue
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name}: {target}"
            if section:
                titles = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M)
                anchors = [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in titles]
                assert section[1:] in anchors, f"{page.name}: {target}{section}"


def test_the_caption_quotes_the_table_behind_the_picture() -> None:
    table = pd.read_csv(ROOT / "docs/images/vq-cifar10.csv")
    assert f"n = {table['tokenizer_id'].nunique()} tokenizers" in CAPTION
    assert set(table.groupby("arm").size()) == {9} and "9 generators on each" in CAPTION

    frontiers = compare(
        table, FrontierRequest(x="flops_train", y="val_loss", group="arm", bootstrap=200)
    ).frontiers
    floors = [frontiers[arm].fits["floor"].params["E"] for arm in ("vq-seed1", "vq-seed2")]
    quoted = re.findall(r"(\d\.\d\d) \[(\d\.\d\d), (\d\.\d\d)\]", CAPTION)
    assert [float(value) for value, _, _ in quoted] == pytest.approx(floors, abs=0.005)
    for arm, (_, low, high) in zip(("vq-seed1", "vq-seed2"), quoted, strict=True):
        interval = frontiers[arm].fits["floor"].ci95["E"]
        assert (float(low), float(high)) == pytest.approx(interval, abs=0.01)

    losses = table.pivot(index="flops_train", columns="arm", values="val_loss")
    gap = float(re.findall(r"differ by more than (0\.\d\d)", CAPTION)[0])
    assert gap - 0.01 < (losses["vq-seed1"] - losses["vq-seed2"]).abs().max() <= gap

    largest = table[table["flops_train"] == table["flops_train"].max()]
    for arm, distance in zip(largest["arm"], largest["gfcd"], strict=True):
        assert f"{distance:.4f} with seed {arm[-1]}" in CAPTION


def test_the_study_behind_the_picture_has_an_arm_for_each_tokenizer() -> None:
    page = (ROOT / "docs/crt.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, flags=re.S)[0]
    scope: dict[str, object] = {}
    exec(code, scope)
    study = scope["study"]
    assert callable(study)
    assert list(study().arms) == ["vq-seed1", "vq-seed2", "crt-seed1", "crt-seed2"]
    assert [sets["tokenizer.seed"] for sets in study(arm="vq").arms.values()] == [1, 2]
