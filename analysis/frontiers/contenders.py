"""Draw the true values of an arm's runs: what noise gave to the lucky ones is taken back.

The best of K noisy runs lies below the best of their true values (the winner's curse). Adding noise
again and selecting again counts that twice. Here every run's value is a law, plus the excess of its
configuration, plus noise; a draw takes the excesses and the noise from their posterior, so that
equally good runs are averaged, clearly different ones are kept apart, and what cannot be told apart
is drawn both ways. An envelope is then selected from true values.

In a cell of compute the law improves by less than the noise, so its runs compete. Where all cells
hold the same number of runs, the runs of one rank (in size, else in compute) are one configuration.

Legend: B draws, n runs, G cells, J configurations. Values: log y, negated if more is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..notebook_repr import Brief

# Runs of one cell compete: across it the law improves by this many standard deviations of noise.
CELL_NOISES = 4.0
WIDEST_CELL = 0.25  # decades
# A run that is so many standard deviations worse than the best of its cell is no contender.
FAR = 15.0
# Above MANY runs an arm keeps the DEEPEST best runs of each cell as contenders.
MANY, DEEPEST = 400, 40
# A cell is worse than a cheaper one if its best run is by so many standard deviations.
CLEARLY = 1.0
# Prior of the excess, in standard deviations of the noise. Chosen by simulation on seeds that the
# coverage test does not use (docs/analysis.md).
EQUAL_CONFIGURATIONS = 0.6  # probability that matched configurations are equally good
EQUAL_RUNS = 0.985  # that runs of one configuration differ by noise alone
EQUAL_UNMATCHED = 0.7  # that unmatched runs of a cell are equally good
SCALE_CONFIGURATIONS, SCALE_RUNS = 0.5, 1.0  # typical excess where they are not
EXCESS_J = np.concatenate([[0.0], np.geomspace(0.1, 30.0, 32)])
EXCESS_R = np.concatenate([[0.0], np.geomspace(0.2, 30.0, 24)])
POOLED_P = 0.025  # scatters of two arms are pooled unless an F test says they differ (each side)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Scatter(Brief):
    """A sum of squares in units of one run's noise variance, and its degrees of freedom."""

    square: float
    free: int

    @property
    def variance(self) -> float:
        return self.square / self.free if self.free else np.nan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Layout(Brief):
    """The contenders of an arm under one form, and how they scatter."""

    row_n: np.ndarray  # row numbers of the contenders
    best_G: np.ndarray  # row number of the best measured run of each cell
    cell_n: np.ndarray
    config_n: np.ndarray | None  # the configuration of each, where cells match
    seeds_n: np.ndarray  # runs averaged in each row, over their mean
    trend_n: np.ndarray  # the law through the cells' means
    rest_n: np.ndarray  # value - trend
    mean_G: np.ndarray  # mean of rest
    size_G: np.ndarray  # sum of seeds_n
    config_J: np.ndarray  # mean of rest of each configuration; empty if unmatched
    about_law: Scatter  # of the cells' means
    of_configs: Scatter
    within: Scatter
    lowest: Scatter  # of the cells' best runs about a line, as if all were equal
    best_share: float  # variance of the best of a cell's equal runs over that of one
    skewed: float  # skewness of the values in cells over its standard error


def best_variance(num: float) -> float:
    """Compute the variance of the best of `num` standard normal values (7% at most off)."""
    return float(num) ** -0.47 if num > 1 else 1.0


def _means(values: np.ndarray, weights: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.bincount(ids, weights * values) / np.bincount(ids, weights)


Trend = Callable[[np.ndarray], np.ndarray]  # value of a law at log x


class Rows(NamedTuple):
    """Averaged rows of an arm, one array each."""

    log_x: np.ndarray
    value: np.ndarray  # log metric, so that lower is better
    seeds: np.ndarray  # runs averaged in each row
    cell: np.ndarray  # number of the cell of compute


def layout(
    arm: Rows,
    rank_by: np.ndarray | None,
    first: Trend,
    trend_of: Callable[[np.ndarray, np.ndarray], Trend],
    num_params: int,
    *,
    noise: float,
    falling: bool,
) -> Layout:
    """Decompose the scatter of an arm's rows.

    `first` is a law through the points as measured, about which they scatter by `noise`;
    `trend_of(log_x, value)` fits it anew. `rank_by` orders the configurations of a cell; without it
    they are ordered by x, if they lie alike in all cells. With `falling` a cell is left out when
    its best run is clearly worse than that of a cheaper cell.
    """
    log_x, value, seeds, cell = arm
    seeds = seeds / seeds.mean()
    everything = np.arange(len(value))
    if falling:
        everything = _not_clearly_worse(value, cell, noise)
    cell = np.unique(cell[everything], return_inverse=True)[1].ravel()
    log_x, value, seeds = (one[everything] for one in (log_x, value, seeds))
    rank_by = None if rank_by is None else rank_by[everything]
    num_cells = int(cell.max()) + 1
    order = np.lexsort([value, cell])
    best = order[np.flatnonzero(np.diff(cell[order], prepend=-1))]
    rest = value - first(log_x)
    count = np.bincount(cell)
    share = best_variance(float(np.median(count)))
    free = num_cells - num_params
    if free > 0:
        about = value[best] - trend_of(log_x[best], value[best])(log_x[best])
        lowest = Scatter(square=float((about**2).sum()) / share, free=free)
    else:
        lowest = Scatter(square=0.0, free=0)
    far = FAR * np.sqrt(lowest.variance) + 1e-12 if free > 0 else np.inf
    matched = num_cells >= 3 and count[0] > 1 and bool((count == count[0]).all())
    matched = matched and (rank_by is not None or _same_steps(log_x, cell, num_cells))
    keep = rest - rest[best][cell] <= far
    if len(rest) > MANY and not matched:
        by_value = np.lexsort([rest, cell])
        ahead = np.arange(len(rest)) - np.searchsorted(cell[by_value], cell[by_value])
        keep[by_value[ahead >= DEEPEST]] = False
    place = np.zeros(len(value), dtype=int)
    if matched:
        by_rank = np.lexsort([log_x, log_x if rank_by is None else rank_by, cell])
        place[by_rank] = np.tile(np.arange(count[0]), num_cells)
        excess = np.bincount(place, rest) / num_cells
        keep = (excess - excess.min() <= far)[place]
    rows = np.flatnonzero(keep)
    cell, log_x, value, seeds = cell[rows], log_x[rows], value[rows], seeds[rows]
    config = np.unique(place[rows], return_inverse=True)[1].ravel() if matched else None
    if config is not None and config.max() == 0:
        config = None
    return _decomposed(
        everything[rows],
        Rows(log_x, value, seeds, cell),
        config,
        trend_of(_means(log_x, seeds, cell), _means(value, seeds, cell)),
        free,
        Scatter(square=lowest.square * share, free=lowest.free),
    )


def _not_clearly_worse(value: np.ndarray, cell: np.ndarray, noise: float) -> np.ndarray:
    """Return the rows of the cells whose best run is not clearly worse than a cheaper cell's."""
    lowest_G = np.full(int(cell.max()) + 1, np.inf)
    np.minimum.at(lowest_G, cell, value)
    cheaper = np.minimum.accumulate(np.concatenate([[np.inf], lowest_G[:-1]]))
    return np.flatnonzero((lowest_G <= cheaper + CLEARLY * noise)[cell])


def _decomposed(
    row_n: np.ndarray,
    arm: Rows,
    config: np.ndarray | None,
    trend: Trend,
    free: int,
    lowest: Scatter,
) -> Layout:
    """Split the contenders' scatter about a trend into that of cells, configurations and runs."""
    log_x, value, seeds, cell = arm
    num_cells = int(cell.max()) + 1
    trend_n = trend(log_x)
    rest = value - trend_n
    size = np.bincount(cell, seeds)
    mean = _means(rest, seeds, cell)
    about_law = Scatter(square=float((size * mean**2).sum()), free=max(free, 0))
    of_cell = rest - mean[cell]
    config_J = np.empty(0)
    of_configs = Scatter(square=0.0, free=0)
    inside, free_inside = of_cell, len(row_n) - num_cells
    if config is not None:
        config_J = _means(of_cell, seeds, config)
        of_configs = Scatter(
            square=float((np.bincount(config, seeds) * config_J**2).sum()), free=len(config_J) - 1
        )
        inside = of_cell - config_J[config]
        free_inside -= of_configs.free
    within = Scatter(square=float((seeds * inside**2).sum()), free=free_inside)
    typical = float(np.median(np.bincount(cell)))
    skewed = 0.0
    if free_inside >= 8 and within.square > 0:
        spread = np.sqrt(within.square / free_inside)
        skewed = float((inside**3).mean() / spread**3 / np.sqrt(6.0 / free_inside))
    order = np.lexsort([value, cell])
    return Layout(
        row_n=row_n,
        best_G=row_n[order[np.flatnonzero(np.diff(cell[order], prepend=-1))]],
        cell_n=cell,
        config_n=config,
        seeds_n=seeds,
        trend_n=trend_n,
        rest_n=rest,
        mean_G=mean,
        size_G=size,
        config_J=config_J,
        about_law=about_law,
        of_configs=of_configs,
        within=within,
        lowest=lowest,
        best_share=best_variance(typical),
        skewed=skewed,
    )


def _same_steps(log_x: np.ndarray, cell: np.ndarray, num_cells: int) -> bool:
    """Tell if the runs of every cell lie at the same distances in x, as planned, not by chance."""
    x_GJ = np.sort(log_x[np.argsort(cell, kind="stable")].reshape(num_cells, -1), axis=1)
    steps = np.diff(x_GJ, axis=1)
    mean = steps.mean(axis=0)
    return bool(((mean > 0) & (steps.std(axis=0) <= 0.1 * mean)).all())


def pooled(own: Scatter, others: Sequence[Scatter]) -> Scatter:
    """Add the scatters that an F test does not tell from `own`."""
    square, free = 0.0, 0
    for other in others:
        if not other.free or other.square <= 0:
            continue
        if own.free and own.square > 0:
            p = float(stats.f.cdf(other.variance / own.variance, other.free, own.free))
            if min(p, 1 - p) < POOLED_P:
                continue
        square, free = square + other.square, free + other.free
    return Scatter(square=square, free=free)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Sizes(Brief):
    """Draws of the noise of one run, and of the excesses over it, each [B]."""

    noise_B: np.ndarray
    config_B: np.ndarray
    run_B: np.ndarray
    equal: float  # posterior probability that the contenders are equally good

    def take(self, some: slice) -> Sizes:
        """Return some of the draws."""
        return Sizes(
            noise_B=self.noise_B[some],
            config_B=self.config_B[some],
            run_B=self.run_B[some],
            equal=self.equal,
        )


def _prior(grid: np.ndarray, equal: float, scale: float) -> np.ndarray:
    """Return the probabilities of a spike at 0 and of a density that vanishes there."""
    square = (grid[1:] / scale) ** 2
    density = square**2 / (1.0 + square) ** 2.5
    return np.concatenate([[equal], (1.0 - equal) * density / density.sum()])


def sizes(of: Layout, other: Scatter, num: int, rng: np.random.Generator) -> Sizes:
    """Draw noise and excess of an arm from their posterior; `other` are scatters of noise alone.

    With t = excess / noise the sums of squares are scaled chi-squares, so noise is integrated out
    in closed form on a grid of (t of configurations, t of runs). Excesses that come anew in every
    cell move the means of cells too, excesses of fixed configurations do not: both are considered.
    """
    free = of.about_law.free + other.free
    if not of.within.free and not of.of_configs.free:
        variance = (of.about_law.square + other.square) / rng.chisquare(free, num)
        none = np.zeros(num)
        return Sizes(noise_B=np.sqrt(variance), config_B=none, run_B=none, equal=1.0)
    matched = of.config_n is not None
    grid_j = EXCESS_J if matched else EXCESS_J[:1]
    per_config = len(of.rest_n) / max(len(of.config_J), 1)
    prior_j = (
        _prior(EXCESS_J, EQUAL_CONFIGURATIONS, SCALE_CONFIGURATIONS) if matched else np.ones(1)
    )
    prior_r = _prior(EXCESS_R, EQUAL_RUNS if matched else EQUAL_UNMATCHED, SCALE_RUNS)
    tj, tr = (one.ravel() for one in np.meshgrid(grid_j**2, EXCESS_R**2, indexing="ij"))
    prior = np.log(np.outer(prior_j, prior_r)).ravel()
    # Noise alone is not skewed; excess is. Equal runs lose what the skewness takes from them.
    prior = np.where(tr == 0, prior - 0.5 * max(0.0, of.skewed - 2.0) ** 2, prior)
    most = np.maximum(tj, tr)
    lowest = of.best_share + (1.0 - of.best_share) * most / (1.0 + most)
    total = free + of.of_configs.free + of.within.free + of.lowest.free
    logs, squares = [], []
    for moves in (0.0, 1.0):
        scaled = (
            (of.about_law, 1.0 + moves * tr),
            (of.of_configs, 1.0 + per_config * tj + tr),
            (of.within, 1.0 + tr),
            (of.lowest, lowest),
        )
        square = other.square + sum(one.square / by for one, by in scaled) + 1e-30 * total
        log = prior - 0.5 * sum(one.free * np.log(by) for one, by in scaled)
        logs.append(log - 0.5 * total * np.log(square))
        squares.append(square)
    log, square = np.concatenate(logs), np.concatenate(squares)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    pick = rng.choice(len(weight), num, p=weight)
    noise = np.sqrt(square[pick] / rng.chisquare(total, num))
    at = pick % len(tj)
    equal = float(weight[np.tile((tj == 0) & (tr == 0), 2)].sum())
    return Sizes(noise_B=noise, config_B=np.sqrt(tj[at]), run_B=np.sqrt(tr[at]), equal=equal)


def true_values(of: Layout, of_noise: Sizes, rng: np.random.Generator) -> np.ndarray:
    """Draw the true values of the contenders, [B, n]."""
    num, noise = len(of_noise.noise_B), of_noise.noise_B[:, None]
    run = of_noise.run_B[:, None] ** 2

    def normal(width: int) -> np.ndarray:
        # Pairs of opposite signs: means of draws are exact where nothing is selected.
        half = rng.standard_normal(((num + 1) // 2, width))
        return np.concatenate([half, -half])[:num]

    level = of.mean_G + normal(len(of.mean_G)) * noise * np.sqrt((1.0 + run) / of.size_G)
    base = level[:, of.cell_n]
    if of.config_n is not None:
        config = of_noise.config_B[:, None] ** 2
        cells_of = np.bincount(of.config_n, of.seeds_n)
        share = config / (config + (1.0 + run) / cells_of)
        scatter = noise * np.sqrt(share * (1.0 + run) / cells_of)
        drawn = share * of.config_J + scatter * normal(len(cells_of))
        base = base + drawn[:, of.config_n]
    share = run / (run + 1.0 / of.seeds_n)
    if (of_noise.run_B > 0).any():
        scatter = noise * np.sqrt(share / of.seeds_n)
        base = base + share * (of.rest_n - base) + scatter * normal(len(of.rest_n))
    return np.asarray(of.trend_n + base)
