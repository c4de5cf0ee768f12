"""The columns of the two tables that results_db.read returns: name -> (dtype, meaning).

docs/results.md shows the same tables; a test compares them. dtypes are pandas': "object" holds
text (None where missing) or what the meaning says, "Int64" whole numbers with missing ones,
"float64" numbers with NaN where missing.
"""

from .endpoint import COLUMNS

_DTYPES = {int: "Int64", float: "float64", str: "object"}
_RUN_COLUMNS = {name: (_DTYPES[kind], meaning) for name, (kind, meaning) in COLUMNS.items()}
_MADE_BY = {
    "attempts": ("Int64", "attempts at the run so far"),
    "commit": ("object", "commit of the code that finished the run"),
    "dirty": ("object", "True when that code had uncommitted changes, None when unknown"),
    "finished_at": ("object", "when the endpoint was written, ISO 8601, UTC"),
}

LONG_COLUMNS: dict[str, tuple[str, str]] = {
    "study": ("object", "study that the run is a member of; None when it is in none"),
    "arm": ("object", "arm of the study; a shared run has a row for each of its arms and axes"),
    "run_id": ("object", "id of the run that ended with the value"),
    "kind": ("object", "extractor, tokenizer, codes, generator or evaluation"),
    "axes": ("object", "dict: axis name -> value under which the study has the run"),
    "primary": ("object", "False for an evaluation that the wide table does not show"),
    "subject_id": ("object", "what an evaluation is of: a generator's or tokenizer's run id"),
    "status": ("object", "done or diverged"),
    "reason": ("object", "why the run diverged"),
    "metric": ("object", "name of the value; None in the one row of a run that ended without any"),
    "value": ("float64", "the value; NaN only where status is diverged"),
    "unit": ("object", "unit of the value"),
    "better": ("object", "lower or higher; None for neither, and for runs that did not record it"),
    "extractor": ("object", "provenance: feature extractor and its hash"),
    "reference": ("object", "provenance: reference images or statistics"),
    "num_samples": ("Int64", "provenance: how many samples the value was made with"),
    "seed": ("Int64", "provenance: seed of the samples"),
    "library": ("object", "provenance: library that computed the value"),
    "floor": ("float64", "provenance: the same metric between two clean sets"),
    "provenance": ("object", "dict: all of the value's provenance"),
    "dataset": ("object", "name of the data set"),
    **_RUN_COLUMNS,
    **_MADE_BY,
}

_METRICS: dict[str, tuple[str, str]] = {
    "val_loss": ("float64", "generator: validation loss, nats/token"),
    "val_bits_per_image": ("float64", "generator: validation loss of a whole image, bits"),
    "gfcd": ("float64", "Frechet classifier distance of samples, mean over sample seeds"),
    "gfcd_std": ("float64", "its standard deviation over sample seeds (n - 1), NaN for one seed"),
    "gfcd_seeds": ("Int64", "number of sample seeds"),
    "gfcd_extractor": ("object", "feature extractor and its hash"),
    "gfcd_num_samples": ("Int64", "samples for each seed"),
    "gfcd_floor": ("float64", "the same distance between two clean sets"),
    "rfcd": ("float64", "Frechet classifier distance of reconstructions"),
    "rfcd_floor": ("float64", "the same distance between two clean sets"),
    "psnr": ("float64", "reconstructions: peak signal-to-noise ratio, dB"),
    "ssim": ("float64", "reconstructions: structural similarity"),
    "codebook_usage": ("float64", "share of the codebook in use, 0 to 1"),
    "codebook_perplexity": ("float64", "exp of the entropy of the code distribution"),
}

WIDE_COLUMNS: dict[str, tuple[str, str]] = {
    "study": ("object", "study; None for a generator that is in none"),
    "arm": ("object", "arm of the study"),
    "run_id": ("object", "id of the generator's run"),
    "tokenizer_id": ("object", "id of its tokenizer's run"),
    "codes_id": ("object", "id of its codes run"),
    "evaluation_id": ("object", "id of the evaluation of its samples, the first of several"),
    "status": (
        "object",
        "done, diverged; before the end: pending, started, failed, preempted",
    ),
    "reason": ("object", "why it diverged"),
    "dataset": ("object", "name of the data set"),
    **_METRICS,
    **_RUN_COLUMNS,
    "tokenizer_params": ("Int64", "trainable parameters of the generator's tokenizer"),
    "gpu_hours_planned": ("float64", "device hours that the plan expected of the generator"),
    **_MADE_BY,
}

# In front of a metric whose name another source has taken; a tokenizer's own values always have it.
TOKENIZER_PREFIX = "tokenizer_"
WIDE_PREFIXES = (
    *("generator_", "generator_eval_", "tokenizer_eval_", "codes_"),
    TOKENIZER_PREFIX,
)

# What a value's provenance adds to the wide table beside its metric: METRIC_extractor ...
WIDE_SUFFIXES: dict[str, str] = {
    "extractor": "object",
    "reference": "object",
    "num_samples": "Int64",
    "floor": "float64",
    "extractor_accuracy": "float64",
    "caution": "object",
}
