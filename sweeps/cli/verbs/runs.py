"""`train`, `sample`, `count` and `schedule`: one run by hand, and tables of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt


def train(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run ids (or first digits) or folders.")
    ],
    home: opt.Home = opt.HOME,
) -> int:
    """Do runs by hand, one after another, as a job does."""
    from ..find_run import run_folder

    folders = [str(run_folder(home, run).path) for run in runs]
    from ....trainer.__main__ import main

    return main(folders)


def sample(
    run: opt.RunId,
    out: Annotated[Path, typer.Option("--out", help="The picture, .png.")] = Path("grid.png"),
    classes: Annotated[
        str | None, typer.Option("--classes", help="Class numbers, e.g. 207,388; default: first 8.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="Images of each class; default: 8, or what there is."),
    ] = None,
    cfg: Annotated[
        float | None, typer.Option("--cfg", min=0, help="Guidance scale; default: the study's.")
    ] = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    home: opt.Home = opt.HOME,
) -> None:
    """Draw images per class of a generator, or reconstructions."""
    from ..find_run import run_folder

    folder = run_folder(home, run)
    if out.suffix != ".png":
        raise ValueError(f"--out: {str(out)!r}; allowed: a file that ends in .png")
    numbers = None if classes is None else _numbers("--classes", classes)
    from ....trainer.sampling import picture

    picture.sample(folder, out=out, classes=numbers, n=n, cfg=cfg, seed=seed, device=device)
    opt.say(f"images in {out}")


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag}: {text!r}; allowed: whole numbers, e.g. 207,388") from None


def count(as_json: opt.Json = False) -> None:
    """Count parameters and multiply-adds of the named architectures."""
    from ....trainer.accounting import counts

    table = counts.to_json()
    if as_json:
        opt.print_json(table)
        return
    from .. import show

    columns = [("architecture", "left"), ("params", "right"), ("non-embedding", "right")]
    columns += [("MACs of one image", "right")]
    rows = [
        [name, *("" if value is None else f"{value:,}" for value in row.values())]
        for name, row in table.items()
    ]
    show.wide_console().print(show.table(columns, rows))


def schedule(
    name: Annotated[str, typer.Option("--name", help="constant, linear, cosine or power.")],
    kmin: Annotated[int, typer.Option("--kmin", help="Codes at the first position.")] = 2,
    kmax: Annotated[int, typer.Option("--kmax", help="Codes at the last position.")] = 16384,
    length: Annotated[int, typer.Option("--length", help="Tokens of an image.")] = 256,
    images: Annotated[int, typer.Option("--images", help="Images of the set.")] = 1_281_167,
    resolution: Annotated[int, typer.Option("--resolution", help="Pixels per side.")] = 256,
    power: Annotated[float, typer.Option("--power", help="Exponent of power.")] = 2.5,
    as_json: opt.Json = False,
) -> None:
    """Codebook sizes along the sequence (VCQ)."""
    from ....trainer.accounting import codebook_schedules

    made = codebook_schedules.describe(name, kmin, kmax, length, images, resolution, power)
    if as_json:
        opt.print_json(made)
        return
    first = ", ".join(str(size) for size in made["k"][:12])
    opt.say(f"K_t         {first}{' ...' if length > 12 else ''} {made['k'][-1]}")
    opt.say(f"mean K      {made['k_mean']:.2f}")
    opt.say(f"bits        {made['bits_total']:.2f} per image, {made['bpp']:.5f} per pixel")
    opt.say(f"t*          {made['t_star']}  (first t whose codes can tell {images:,} images apart)")
    left = ", ".join(f"{bits:.2f}" for bits in made["remaining_bits"][:12])
    opt.say(f"bits left   {left}")
