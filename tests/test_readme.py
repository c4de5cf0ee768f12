"""The README's tour stays true: every file of the packages is in its tree, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sweeps", "slurm", "trainer", "results_db", "analysis")
# Folders that the tree describes as a whole.
WHOLE = {"results_db/migrations", "analysis/published"}


def named_in_tree() -> set[str]:
    """Paths of modules that the tree names, without their ending."""
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The folders are the story")[1].split("```")[1]
    found: set[str] = set()
    package = folder = ""
    for line in tree.strip().splitlines():
        if top := re.match(r"(\w+)/ ", line):
            package, folder = top[1], ""
        elif inner := re.match(r"  (\w+)/ +(.*)", line):
            folder = f"{package}/{inner[1]}"
            words = inner[2].split(": ")[-1]
            found |= (
                {f"{folder}/{word}" for word in words.split()} if folder not in WHOLE else set()
            )
        elif module := re.match(r"  (\w+)\.py ", line):
            found.add(f"{package}/{module[1]}")
        elif folder:
            found |= {f"{folder}/{word}" for word in line.split()}
    return found


def test_the_tree_names_every_file() -> None:
    there = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            relative = path.relative_to(ROOT).with_suffix("").as_posix()
            private = path.stem.startswith("_") and path.stem != "__main__"
            if not private and not any(relative.startswith(f"{folder}/") for folder in WHOLE):
                there.add(relative)
    assert named_in_tree() == there


def test_links_and_pictures_lead_somewhere() -> None:
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
