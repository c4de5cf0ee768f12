"""`tokenlaw sample`: pictures of a trained generator and a trained tokenizer."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from tokenlaw.results_db.record import RunDir
from tokenlaw.trainer.sampling.picture import sample


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    home = tmp_path_factory.mktemp("home")
    tokenizer = tiny.lay_out(home, "tokenizer", tiny.tokenizer())
    codes = tiny.lay_out(home, "codes", tiny.codes(), {"tokenizer": tokenizer})
    generator = tiny.lay_out(home, "generator", tiny.generator(), {"codes": codes})
    for run_dir in (tokenizer, codes, generator):
        assert tiny.do(run_dir).outcome == "done"
    return {"tokenizer": tokenizer, "codes": codes, "generator": generator}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_samples_have_a_row_per_class_and_depend_on_the_seed(
    runs: dict[str, RunDir], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path, seed, classes in zip(paths, (0, 0, 1, 0), ([3, 7], [3, 7], [3, 7], [7]), strict=True):
        sample(runs["generator"], out=path, classes=classes, n=4, cfg=2.0, seed=seed, device="cpu")
    assert pixels(paths[0]).shape == (2 * 16 + 2, 4 * 16 + 3 * 2, 3)
    assert (pixels(paths[0]) == pixels(paths[1])).all()
    assert (pixels(paths[0]) != pixels(paths[2])).any()
    # A class's row does not depend on what else is drawn.
    assert (pixels(paths[0])[18:] == pixels(paths[3])).all()


def test_reconstructions_stand_below_their_originals(
    runs: dict[str, RunDir], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "grid.png"
    sample(runs["tokenizer"], out=out, classes=[0, 1, 2], n=5, device="cpu")
    assert pixels(out).shape == (6 * 16 + 5 * 2, 5 * 16 + 4 * 2, 3)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("codes", {}, "kind codes"),
        ("generator", {"classes": [10]}, "0 to 9"),
        ("tokenizer", {"cfg": 2.0}, "--cfg"),
        ("tokenizer", {"n": 100_000}, "--n"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    runs: dict[str, RunDir], tmp_path: Path, kind: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        sample(runs[kind], out=tmp_path / "x.png", device="cpu", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x.png").exists()
