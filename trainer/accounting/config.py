"""Configs of the five kinds of run, and their strict decoding.

Everything that can change a result is a field here and enters the run's id (identity.py). Devices,
folders, executors and logging are settings, kept beside the config and never hashed. No torch at
the top of this file; decoding a config that names a part imports that part.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails

from ...results_db.endpoint import KINDS
from .. import parts
from .label_prior import reference_of

# Networks of a study: in trunks, and by all processes of a group together.
TRAINED_KINDS = ("tokenizer", "generator")

# A frozen dataclass whose unknown keys, NaN and wrong types are refused. Every Config, also a
# part's, uses it.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

PositiveInt = Annotated[int, Field(ge=1)]
CountInt = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Part:
    """A part by name with its own decoded Config: what a config field such as `quantizer` holds."""

    name: str
    version: int
    config: Any


def part(name: str, **options: Any) -> dict[str, Any]:
    """A part as studies write it: `part("vq", codebook_size=1024)`."""
    return {"name": name, **options}


_decoded_parts: dict[tuple[str, str], Part] = {}


def decode_part(folder: str, tree: object) -> Part:
    """The part that `tree` names ({"name": .., options}); a bare name takes the part's defaults."""
    if isinstance(tree, Part):
        return tree
    if isinstance(tree, str):
        tree = {"name": tree}
    if not isinstance(tree, Mapping) or not isinstance(tree.get("name"), str):
        raise ValueError(f"must name a part: {', '.join(parts.names(folder))}")
    key = (folder, json.dumps(tree, sort_keys=True))
    if key not in _decoded_parts:
        module = parts.load(folder, tree["name"])
        if tree.get("version", module.VERSION) != module.VERSION:
            raise ValueError(
                f"{tree['name']}.version: this code has version {module.VERSION} of the part, "
                f"the config was made with {tree['version']}"
            )
        options = {name: value for name, value in tree.items() if name not in ("name", "version")}
        config = decode(module.Config, options, where=tree["name"])
        _decoded_parts[key] = Part(tree["name"], module.VERSION, config)
    return _decoded_parts[key]


def _in_folder(folder: str) -> Any:
    return BeforeValidator(lambda tree: decode_part(folder, tree))


def _part_to_tree(value: Part) -> dict[str, Any]:
    return {"name": value.name, "version": value.version, **to_tree(value.config)}


_SERIAL = PlainSerializer(_part_to_tree)
TokenizerPart = Annotated[Part, _in_folder("tokenizers"), _SERIAL]
QuantizerPart = Annotated[Part, _in_folder("quantizers"), _SERIAL]
RegularizerPart = Annotated[Part, _in_folder("regularizers"), _SERIAL]
LossPart = Annotated[Part, _in_folder("losses"), _SERIAL]
MetricPart = Annotated[Part, _in_folder("metrics"), _SERIAL]
DatasetPart = Annotated[Part, _in_folder("datasets"), _SERIAL]


# ------------------------------------------------------------------------------------ shared pieces


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which images, and what is known of them before they are opened."""

    __pydantic_config__ = STRICT

    dataset: DatasetPart  # trainer/datasets/NAME.py
    digest: str | None = None  # sha256 over names and contents; None while the data are not at hand
    num_classes: PositiveInt  # verified when a run starts
    num_train: PositiveInt  # training images
    num_val: PositiveInt  # validation images
    # ids in the data by class number; None: the same numbers
    labels: tuple[CountInt, ...] | None = field(default=None, metadata={"id_default": None})
    resolution: PositiveInt  # side in pixels at which images are shown to the models


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericsConfig:
    """How arithmetic is done. Part of the id, since it moves results."""

    __pydantic_config__ = STRICT

    # Autocast dtype; weights and optimiser state stay fp32.
    precision: Literal["fp32", "bf16"] = "fp32"
    # Intra-op threads on CPU: sums split over threads round differently.
    cpu_threads: PositiveInt = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """One optimiser and its learning-rate schedule (learning_rate.py has the formulas)."""

    __pydantic_config__ = STRICT

    name: Literal["adam", "adamw"] = "adamw"
    lr_peak: PositiveFloat = 1e-4  # learning rate after warm-up
    lr_warmup_start: NonNegativeFloat = 0.0  # learning rate of the first iteration of the warm-up
    warmup_iterations: CountInt = 0  # linear warm-up
    schedule: Literal["constant", "cosine", "linear", "multistep", "wsd"] = "constant"
    lr_end_share: Share = 0.0  # final learning rate as a share of the peak (cosine, linear, wsd)
    hold_share: Share = 0.0  # linear: share of the iterations after warm-up spent at the peak
    # multistep: shares of the iterations at which lr is multiplied.
    milestones: tuple[Share, ...] = ()
    milestone_factor: Share = 0.1  # multistep: the factor
    decay_share: Share = 0.2  # wsd: share of the iterations spent in the decay
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"  # wsd
    beta1: Share = 0.9
    beta2: Share = 0.95
    weight_decay: NonNegativeFloat = 0.0  # adamw: on matrices, never on norms and biases
    # At the last iteration, by half a cosine over all of them (VAR, IBQ); None: the same always.
    weight_decay_end: NonNegativeFloat | None = field(default=None, metadata={"id_default": None})
    # Decay codebooks, embeddings of codes and classes, and learned positions too (LlamaGen, IBQ).
    decay_embeddings: bool = field(default=False, metadata={"id_default": False})
    clip: NonNegativeFloat = 0.0  # limit of the norm of this optimiser's gradients; 0 = off

    def __post_init__(self) -> None:
        for setting in ("weight_decay_end", "decay_embeddings"):
            value = getattr(self, setting)
            if self.name != "adamw" and value is not None and value is not False:
                raise ValueError(f"{setting}: {value} needs name adamw, not {self.name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    """The place of a run in a shared constant-rate trunk (trunks.py). The planner sets it."""

    __pydantic_config__ = STRICT

    role: Literal["segment", "branch"]  # a piece of the trunk, or the decay that leaves it
    # Iteration at which the run takes over the state of its parent `trunk`; 0 and no parent: it
    # starts the trunk. In no id: that of a segment says where it ends, however it was reached.
    start: CountInt = field(metadata={"in_id": False})


def _check_trunk(trunk: TrunkConfig | None, iterations: int, optim: OptimConfig) -> None:
    if trunk is None:
        return
    if trunk.start >= iterations:
        raise ValueError(
            f"trunk.start: {trunk.start} is not allowed; must be below iterations {iterations}"
        )
    schedule = "constant" if trunk.role == "segment" else "wsd"
    if optim.schedule != schedule:
        raise ValueError(
            f"optim.schedule: {optim.schedule!r} is not allowed in a {trunk.role}; "
            f"allowed: {schedule}"
        )


# ----------------------------------------------------------------------------------- the five kinds


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorConfig:
    """A small classifier whose features serve a Frechet classifier distance where Inception does
    not apply.
    """

    __pydantic_config__ = STRICT

    data: DataConfig
    width: PositiveInt = 64  # dimension of the penultimate layer, the features
    iterations: PositiveInt = 400
    batch_size: PositiveInt = 64
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr_peak=2e-3, schedule="cosine", weight_decay=1e-2)
    )
    noise_std: NonNegativeFloat = 0.05  # augmentation: Gaussian noise on images in [-1, 1]
    blur_sigma_max: NonNegativeFloat = 0.7  # augmentation: blur of random width, pixels
    seed: CountInt = 0
    numerics: NumericsConfig = NumericsConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Stage 1: a visual tokenizer."""

    __pydantic_config__ = STRICT

    data: DataConfig
    tokenizer: TokenizerPart  # trainer/tokenizers
    quantizer: QuantizerPart  # trainer/quantizers
    regularizer: RegularizerPart | None = None  # trainer/regularizers, acts before the quantizer
    reconstruction: Literal["l1", "l2"] = "l2"  # mean over pixels
    reconstruction_weight: NonNegativeFloat = 1.0
    perceptual: LossPart | None = None  # trainer/losses with ROLE "perceptual"
    adversarial: LossPart | None = None  # trainer/losses with ROLE "adversarial"
    augment: Literal["none", "crop", "crop_flip"] = (
        "crop_flip"  # random square crop, horizontal flip
    )
    # Side of the random crop as a share of the short side.
    crop_scale_min: Annotated[float, Field(gt=0, le=1)] = 0.8
    # Moving average of weights, used from then on.
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    iterations: PositiveInt
    batch_size: PositiveInt  # images per iteration, over all devices
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: CountInt = 0
    numerics: NumericsConfig = NumericsConfig()
    trunk: TrunkConfig | None = field(default=None, metadata={"id_default": None})  # None: alone

    def __post_init__(self) -> None:
        _check_trunk(self.trunk, self.iterations, self.optim)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodesConfig:
    """The pre-tokenised data set: codes of every training crop and of every validation image."""

    __pydantic_config__ = STRICT

    data: DataConfig
    # five_crop: without the mirrored half.
    crops: Literal["center", "ten_crop", "five_crop"] = "ten_crop"
    # Images are resized to ratio x resolution before cropping.
    crop_ratio: Annotated[float, Field(ge=1)] = 1.1
    num_train: PositiveInt | None = None  # first n training images of a seeded order; None = all
    batch_size: PositiveInt = 64  # crops per forward pass
    numerics: NumericsConfig = NumericsConfig()

    def __post_init__(self) -> None:
        if self.num_train is not None and self.num_train > self.data.num_train:
            raise ValueError(
                f"num_train: {self.num_train} is not allowed; the data have "
                f"{self.data.num_train} images"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig:
    """Shape of the autoregressive generator (trainer/models/llama.py)."""

    __pydantic_config__ = STRICT

    width: PositiveInt  # d
    layers: PositiveInt
    heads: PositiveInt
    hidden_multiple: PositiveInt = 256  # SwiGLU hidden size = multiple * ceil(int(8d/3) / multiple)
    position: Literal["rope_2d", "rope_1d", "learned"] = "rope_2d"
    rope_base: PositiveFloat = 10000.0
    rope_cls: Literal["zero", "identity"] = "zero"  # row of the class token: zero is LlamaGen's
    qk_norm: bool = True  # LayerNorm on per-head queries and keys before the rotation
    adaln: bool = False  # class-conditioned adaptive norms (IBQ, VAR)
    adaln_gain_init: PositiveFloat = 1e-3  # scale of the initial AdaLN weights of the two gates
    # That of scales, shifts and the final AdaLN (IBQ, VAR: 0.5); None: as the gates.
    adaln_scale_init: NonNegativeFloat | None = field(default=None, metadata={"id_default": None})
    token_dropout: Share = 0.1
    residual_dropout: Share = 0.1
    ffn_dropout: Share = 0.1
    class_dropout: Share = 0.1  # share of examples whose class becomes the null class
    norm_eps: PositiveFloat = 1e-5
    init_std: PositiveFloat = 0.02

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        quarter = 4 if self.position == "rope_2d" else 2
        if self.position != "learned" and (self.width // self.heads) % quarter:
            raise ValueError(
                f"heads: head size {self.width // self.heads} must be a multiple of {quarter} "
                f"for {self.position}"
            )
        if self.adaln_scale_init is not None and not self.adaln:
            raise ValueError(f"adaln_scale_init: {self.adaln_scale_init} needs adaln true")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """Stage 2: the Llama generator on the codes."""

    __pydantic_config__ = STRICT

    model: LlamaConfig
    iterations: PositiveInt
    batch_size: PositiveInt = 256  # images per iteration, over all devices
    optim: OptimConfig = field(default_factory=OptimConfig)
    z_loss: NonNegativeFloat = 0.0  # weight of mean(logsumexp(logits)^2)
    mask_illegal: bool = False  # vcq: train with logits of codes >= K_t masked
    num_train: PositiveInt | None = None  # the first n images of a seeded order; None = all
    label_mode: Literal["class", "none"] = "class"  # none: one class for all (unlabelled sets)
    seed: CountInt = 0
    numerics: NumericsConfig = NumericsConfig()
    trunk: TrunkConfig | None = field(default=None, metadata={"id_default": None})  # None: alone
    # 8-bit products in the feed-forward layers while training: faster, and less exact (float8.py).
    float8_ffn: bool = field(default=False, metadata={"id_default": False})

    def __post_init__(self) -> None:
        _check_trunk(self.trunk, self.iterations, self.optim)
        if self.float8_ffn and self.numerics.precision != "bf16":
            raise ValueError(
                f"float8_ffn: true needs numerics.precision bf16, not {self.numerics.precision}"
            )
        if self.float8_ffn and self.model.adaln:
            raise ValueError("float8_ffn: true is not allowed with model.adaln")
        if self.float8_ffn and self.model.width % 16:
            raise ValueError(
                f"float8_ffn: true needs a width that is a multiple of 16, not {self.model.width}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How images are drawn from a generator (trainer/sampling/draw.py)."""

    __pydantic_config__ = STRICT

    cfg_scale: NonNegativeFloat = 1.0  # classifier-free guidance; 1 = off
    cfg_schedule: Literal["constant", "step", "cosine_power"] = "constant"
    cfg_power: NonNegativeFloat = 1.0  # cosine_power: exponent p (RAR)
    cfg_step_share: Share = 0.18  # step: share of tokens drawn without guidance (GigaTok)
    # Codebook-size-aware factor of whichever schedule's cfg_scale - 1, from 0 at K_min to 1 at
    # K_max (VCQ, Eq. 4).
    cfg_codebook: Literal["none", "log", "linear"] = field(
        default="none", metadata={"id_default": "none"}
    )
    # Keys and values of earlier tokens as computed, or rounded to 8 bits: half of what a GPU reads
    # for a token, but other codes are drawn now and then.
    kv_cache: Literal["full", "int8"] = field(default="full", metadata={"id_default": "full"})
    temperature: PositiveFloat = 1.0
    top_k: CountInt = 0  # 0 = off
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Metrics of a tokenizer's reconstructions or of a generator's samples."""

    __pydantic_config__ = STRICT

    subject: Literal["tokenizer", "generator"]
    data: DataConfig
    metrics: tuple[MetricPart, ...]
    # Generator: images per sample seed; tokenizer: None = whole validation set.
    num_samples: PositiveInt | None = None
    sample_seeds: tuple[CountInt, ...] = (0,)  # generator: one distance for each
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    cfg_selection: Literal["fixed", "train_subset", "oracle"] = "fixed"  # how cfg_scale is chosen
    cfg_grid: tuple[PositiveFloat, ...] = ()  # scales tried by train_subset and oracle
    # Generator: class counts of the samples, equal or in proportion to the reference's.
    label_prior: Literal["balanced", "as_reference"] = field(
        default="balanced", metadata={"id_default": "balanced"}
    )
    # Tokenizer: side at which it encodes and decodes; None = data.resolution, to which images are
    # resized for the metrics.
    model_resolution: PositiveInt | None = field(default=None, metadata={"id_default": None})
    batch_size: PositiveInt = 64
    numerics: NumericsConfig = NumericsConfig()

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metrics: is empty; allowed: at least one metric")
        for metric in self.metrics:
            stages = parts.load("metrics", metric.name).STAGES
            if self.subject not in stages:
                raise ValueError(
                    f"metrics: {metric.name!r} does not apply to a {self.subject}; "
                    f"allowed: {' and '.join(stages)}"
                )
        if len({metric.name for metric in self.metrics}) < len(self.metrics):
            raise ValueError("metrics: a metric is named twice; allowed: each once")
        if len(set(self.sample_seeds)) < max(1, len(self.sample_seeds)):
            raise ValueError(
                f"sample_seeds: {self.sample_seeds!r} is not allowed; must be different seeds, at "
                "least one"
            )
        if self.subject == "tokenizer" and (self.num_samples or 0) > self.data.num_val:
            raise ValueError(
                f"num_samples: {self.num_samples} is not allowed; the validation set has "
                f"{self.data.num_val} images"
            )
        if self.label_prior == "as_reference":
            if self.subject == "tokenizer":
                raise ValueError("label_prior: 'as_reference' is for generators; allowed: balanced")
            reference_of(self.metrics)
        if self.subject == "generator" and self.num_samples is None:
            raise ValueError("num_samples: is required for a generator")
        if self.subject == "generator" and self.model_resolution is not None:
            raise ValueError(
                "model_resolution: is for tokenizers; a generator's images have the resolution of "
                "its codes"
            )
        if (self.cfg_selection == "fixed") == bool(self.cfg_grid):
            raise ValueError(
                f"cfg_grid: {self.cfg_grid!r} is not allowed with cfg_selection "
                f"{self.cfg_selection!r}; the grid is what train_subset and oracle choose from"
            )


def is_segment(config: object) -> bool:
    """Tell whether a config is of a piece of a trunk, which is no result."""
    return (
        isinstance(config, TokenizerConfig | GeneratorConfig)
        and config.trunk is not None
        and config.trunk.role == "segment"
    )


CONFIGS: dict[str, type] = {
    "extractor": ExtractorConfig,
    "tokenizer": TokenizerConfig,
    "codes": CodesConfig,
    "generator": GeneratorConfig,
    "evaluation": EvaluationConfig,
}

# ----------------------------------------------------------------------------------------- decoding


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def field_names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


def decode(cls: type, tree: Mapping[str, Any], where: str = "") -> Any:
    """`cls` built from plain data, strictly.

    Raises ValueError in one line: the field's path, the value, what is allowed (with the nearest
    known name).
    """
    try:
        return _adapter(cls).validate_json(_finite_json(tree, where))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A misspelt name also makes the right one missing: the unknown name is the one to report.
        unknown = [entry for entry in errors if entry["type"] == "unexpected_keyword_argument"]
        raise ValueError(_one_line(cls, (unknown or errors)[0], where)) from None


def _finite_json(tree: object, where: str) -> str:
    try:
        return json.dumps(tree, sort_keys=True, allow_nan=False)
    except ValueError:
        path, value = next(_not_finite(tree, where))
        raise ValueError(f"{path}: {value!r} is not allowed; must be a finite number") from None


def _not_finite(tree: object, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(tree, float) and not math.isfinite(tree):
        yield path, tree
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _not_finite(value, f"{path}.{name}".strip("."))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _not_finite(value, f"{path}.{index}")


def decode_run(kind: str, tree: Mapping[str, Any]) -> Any:
    """The config of a run of `kind`."""
    if kind not in CONFIGS:
        raise ValueError(f"kind: {kind!r} is unknown; allowed: {', '.join(KINDS)}")
    return decode(CONFIGS[kind], tree, where=kind)


def _one_line(cls: type, error: ErrorDetails, where: str) -> str:
    path = ".".join(
        [where, *(str(step) for step in error["loc"] if not str(step).startswith("function-"))]
    )
    path = path.strip(".")
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = _owner(cls, error["loc"][:-1])
        known = field_names(owner) if owner is not None else ()
        name = str(error["loc"][-1])
        hint = parts.nearest(name, known)
        return f"{path}: there is no such field{hint}; allowed: {', '.join(known)}"
    if error["type"] in ("missing", "missing_keyword_only_argument", "missing_argument"):
        return f"{path}: is required"
    message = error["msg"]
    if error["type"] == "value_error":
        inner = message.removeprefix("Value error, ")
        return f"{path}: {inner}" if path else inner
    value = error["input"]
    shown = value if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return f"{path}: {shown!r} is not allowed; {message[0].lower()}{message[1:]}"


def _owner(cls: type, path: tuple[int | str, ...]) -> type | None:
    """The dataclass at `path` below `cls`, for naming its fields in an error."""
    current: Any = cls
    for step in path:
        hints = (
            {f.name: f.type for f in dataclasses.fields(current)}
            if dataclasses.is_dataclass(current)
            else {}
        )
        found = hints.get(str(step))
        current = globals().get(found) if isinstance(found, str) else found
        if current is None:
            return None
    return current if isinstance(current, type) and dataclasses.is_dataclass(current) else None


def to_tree(config: Any) -> Any:
    """Plain data of a config: dicts, lists, numbers and strings, every default filled in."""
    if isinstance(config, Part):
        return _part_to_tree(config)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_tree(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, list | tuple):
        return [to_tree(item) for item in config]
    return config
