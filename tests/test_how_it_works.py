"""Hold docs/how-it-works.md to the code: paths, names, guards, files of a home, its size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/how-it-works.md").read_text()
FOLDERS = ("tokenlaw", "sweeps", "slurm", "trainer", "results_db", "analysis", "tests", "docs")
DRAWINGS = re.findall(r"^```\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```\n.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))
OF_A_HOME = [text for text in QUOTED if text.startswith(("HOME/", "RUN/"))]
# A file or folder, alone or with the name of what to read in it: PATH, PATH:NAME, PATH::TEST.
PATHS = [
    text
    for text in QUOTED
    if text not in OF_A_HOME
    and " " not in text
    and (text.split(":")[0] in FOLDERS or "/" in text or re.search(r"\.(py|md|json)\b", text))
]


def is_defined(name: str, source: str) -> bool:
    """Tell whether a Python file defines a function, class or constant."""
    pattern = rf"^\s*(?:async def|def|class) {name}\b|^{name}\b\s*[:=]"
    return re.search(pattern, source, flags=re.MULTILINE) is not None


@pytest.mark.parametrize("text", PATHS)
def test_paths_exist_and_hold_the_names_that_the_page_gives(text: str) -> None:
    path, _, name = text.partition(":")
    assert (ROOT / path).exists()
    for part in filter(None, name.lstrip(":").split(".")):
        assert is_defined(part, (ROOT / path).read_text()), f"{path} defines no {part}"


def test_the_drawings_name_what_exists() -> None:
    pattern = rf"(?<![\w/])(?:{'|'.join(FOLDERS)})/[\w/.]*\w"
    named = [path for drawing in DRAWINGS for path in re.findall(pattern, drawing)]
    assert len(named) > 15
    for path in named:
        if not any(part.isupper() for part in re.split(r"[/.]", path)):  # executors/NAME.py
            assert (ROOT / path).exists(), path


def test_every_section_names_its_guards() -> None:
    for section in SECTIONS:
        guards = re.findall(r"`(tests/[^`]+)`", section.partition("\nGuards: ")[2])
        assert len(guards) >= 3, section.splitlines()[0]
        assert set(guards) <= set(PATHS)


def test_files_of_a_home_are_known_to_the_code() -> None:
    product = [path for folder in FOLDERS[1:6] for path in (ROOT / folder).rglob("*.py")]
    source = "\n".join(path.read_text() for path in product)
    assert OF_A_HOME
    for text in OF_A_HOME:
        for part in text.split("/")[1:]:
            assert part.isupper() or f'"{part}"' in source, text


def test_a_section_is_a_screen_with_a_drawing() -> None:
    assert len(PAGE.splitlines()) <= 300
    assert max(map(len, PAGE.splitlines())) <= 160
    assert len(SECTIONS) == len(DRAWINGS) == 6
    for section in SECTIONS:
        assert section.count("```") == 2
        assert 30 <= len(section.strip().splitlines()) <= 45, section.splitlines()[0]


def test_readers_find_the_page() -> None:
    assert "](docs/how-it-works.md)" in (ROOT / "README.md").read_text()
    assert "](docs/how-it-works.md)" in (ROOT / "CONTRIBUTING.md").read_text()
