"""`tokenlaw sample`: pictures of a trained generator and a trained tokenizer."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from tokenlaw.results_db.record import RunDir
from tokenlaw.trainer.datasets import imagefolder
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


def test_without_a_scale_the_evaluations_of_the_study_give_it(
    runs: dict[str, RunDir], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(runs["generator"].home, home)
    generator = RunDir.of(home, "generator", runs["generator"].id)
    parents = {kind: RunDir.of(home, kind, run.id) for kind, run in runs.items()}

    def drawn(cfg: float | None = None) -> np.ndarray:
        out = tmp_path / "grid.png"
        sample(generator, out=out, classes=[3], n=4, cfg=cfg, device="cpu")
        return pixels(out)

    assert (drawn() == drawn(1.0)).all()  # no evaluation, no guidance
    assert (drawn(1.0) != drawn(3.0)).any()
    tree = tiny.samples()
    tree["metrics"] = ["fcd"]
    evaluation = tree | {"sampling": {"cfg_scale": 3.0}}
    guided = tiny.lay_out(home, "evaluation", evaluation, parents)
    assert (drawn() == drawn(3.0)).all()
    # Its other settings hold too, also with a scale of one's own.
    evaluation = tree | {"sampling": {"cfg_scale": 3.0, "top_k": 1}}
    shutil.rmtree(guided.path)
    greedy = tiny.lay_out(home, "evaluation", evaluation, parents)
    first = drawn()[:, :16]
    assert (first == drawn()[:, 18:34]).all() and (drawn(1.0)[:, :16] == drawn(1.0)[:, 18:34]).all()
    other = tiny.lay_out(home, "evaluation", tree | {"sampling": {"cfg_scale": 1.5}}, parents)
    with pytest.raises(ValueError, match=r"--cfg: is required; .* differ: .*1\.5 \(.*3 \("):
        drawn()
    shutil.rmtree(greedy.path)
    shutil.rmtree(other.path)
    evaluation = tree | {"cfg_selection": "oracle", "cfg_grid": [2.0, 3.0]}
    chosen = tiny.lay_out(home, "evaluation", evaluation, parents)
    with pytest.raises(ValueError, match=rf"--cfg: is required; evaluation {chosen.id} has not"):
        drawn()


def test_by_default_reconstructions_take_what_there_is(
    runs: dict[str, RunDir], tmp_path: Path
) -> None:
    """Classes of 2, 0 and 9 validation images."""
    folder, home = tmp_path / "set", tmp_path / "home"
    for number, label in enumerate([0, 1, 2] + [0] * 2 + [2] * 9):
        half = "train" if number < 3 else "val"
        place = folder / half / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(place / f"{number}.png")
    part = imagefolder.describe(imagefolder.Config(on_empty_class="keep"), folder)
    tree = tiny.tokenizer()
    tree["data"] |= {name: getattr(part, name) for name in ("digest", "num_train", "num_val")}
    tree["data"] |= {
        "dataset": tiny.part("imagefolder", on_empty_class="keep"),
        "num_classes": part.num_classes,
    }
    tokenizer = tiny.done(home, "tokenizer", tree, locations={"data": str(folder)})
    out = tmp_path / "x.png"
    sample(tokenizer, out=out, device="cpu")
    assert pixels(out).shape == (4 * 18 - 2, 8 * 18 - 2, 3)
    with pytest.raises(ValueError, match="--n: 8 is too many; class 0 has 2 validation images"):
        sample(tokenizer, out=out, n=8, device="cpu")
    with pytest.raises(ValueError, match="class 1 has 0 validation images"):
        sample(tokenizer, out=out, classes=[1], device="cpu")


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
