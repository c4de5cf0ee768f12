"""Frechet distance between two sets of features, by torch-fidelity's functions.

Function level only: the library's cached, file-based level keys its cache by names and not by
contents, asks for a GPU by default and may use the network.

Shape suffixes: N images, D features.
"""

from __future__ import annotations

import importlib.metadata

import numpy as np
import torch
from torch import Tensor

Statistics = dict[str, np.ndarray]  # mu float64 [D], sigma float64 [D, D]

# torch-fidelity gives every extractor's distance this key; it is renamed where it is read.
_KEY = "frechet_inception_distance"


def library() -> str:
    """Name and version, for provenance."""
    return f"torch-fidelity {importlib.metadata.version('torch-fidelity')}"


def statistics(features_ND: Tensor) -> Statistics:
    """Mean and covariance (N - 1) of the rows, in float64. ValueError when they are not finite."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if len(features_ND) < 2:
        raise ValueError(f"distance: {len(features_ND)} images; allowed: at least 2")
    if not torch.isfinite(features_ND).all():
        raise ValueError("distance: the extractor gave features that are not finite")
    # The library averages in the dtype it is given: single precision would lose digits at N = 50k.
    found = fid_features_to_statistics(features_ND.double().cpu())
    return given(found["mu"], found["sigma"])


def given(mu_D: np.ndarray, sigma_DD: np.ndarray) -> Statistics:
    """Return statistics that were stored before."""
    mu_D = np.asarray(mu_D, dtype=np.float64)
    return {"mu": mu_D, "sigma": np.asarray(sigma_DD, dtype=np.float64).reshape(len(mu_D), -1)}


def distance(first: Statistics, second: Statistics) -> float:
    """Compute |mu1 - mu2|^2 + trace(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2))."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    found = fid_statistics_to_metric(first, second, verbose=False)[_KEY]
    # The eigenvalues of equal sets leave a rounding error of either sign; a distance has none.
    return max(0.0, float(found))
