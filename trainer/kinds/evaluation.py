"""Evaluation runs: metrics of a tokenizer's reconstructions or of a generator's samples.

Work is a list of passes over images: one for a tokenizer; for a generator one per guidance scale
that is tried and one per sample seed. Partial sums of the metrics are checkpointed between batches,
so a killed evaluation goes on where it was and ends with the same numbers.

Shape suffixes: B images of a batch, N tokens, C = 3, H, W pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...results_db import processes
from ...results_db.strict_json import canonical_json
from .. import kernels, parts
from ..accounting import directions, flops, label_prior
from ..accounting.config import (
    CodesConfig,
    EvaluationConfig,
    ExtractorConfig,
    GeneratorConfig,
    TokenizerConfig,
    to_tree,
)
from ..accounting.passes import Pass, is_guided
from ..accounting.passes import passes as list_passes
from ..fast_start import startup
from ..loop import checkpoints, data
from ..loop.code_sets import train_subset
from ..loop.optim import derive_seed
from ..metrics import Batch, Context, Distance, Metric, Value
from ..models.build import legal_sizes, load_generator, load_tokenizer
from ..run import Preempted, Result, Run
from ..sampling import draw
from ..sampling.mosaic import picture
from ..sampling.sampler import Sampler

if TYPE_CHECKING:
    from ..tokenizers import Tokenizer

GRID_COLUMNS = 8  # images in a row of a stored picture
GRID_ROWS = 10  # classes shown at most
COMPILE_FROM = 5000  # images from which compiling the decoder pays
PIXELS = 128 * 256**2  # encoded or decoded at once: enough to fill a GPU, but not its memory


def main(run: Run) -> Result:
    """Compute all metrics of the config.

    Artifacts: a picture, and the scales tried when one was chosen.
    """
    config: EvaluationConfig = run.config
    wanted = {"tokenizer"} if config.subject == "tokenizer" else {"tokenizer", "codes", "generator"}
    if missing := sorted(wanted - set(run.parents)):
        raise ValueError(f"parents: {', '.join(missing)} missing; a {config.subject} needs them")
    _check_extractor(run)
    subject = _Reconstructions(run) if config.subject == "tokenizer" else _Samples(run)
    return _Evaluation(run, subject).result()


def reference_id(config: EvaluationConfig, run: Run) -> str:
    """Return the key of the real images' statistics, beside the network.

    It has the images and the arithmetic.
    """
    shown = to_tree(config.data) | {"numerics": to_tree(config.numerics)}
    return canonical_json(shown | {"batch_size": config.batch_size, "device": run.device.type})


def resize(x_BCHW: Tensor, side: int) -> Tensor:
    """Float images at `side` px: antialiased bicubic, before any clamping, as PIL does it."""
    if x_BCHW.shape[-1] == side:
        return x_BCHW
    return F.interpolate(
        x_BCHW.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
    )


def spread(num: int, wanted: int | None) -> Tensor:
    """Return indices of `wanted` of `num` things at equal distances; all for None.

    A set that is sorted by class is sampled in every class. ValueError when there are fewer.
    """
    if wanted is None:
        return torch.arange(num)
    if wanted > num:
        raise ValueError(f"num_samples: {wanted} is not allowed; the validation set has {num}")
    return torch.arange(wanted) * num // wanted


def in_pieces(network: Callable[[Tensor], Tensor], x: Tensor, side: int) -> Tensor:
    """Run a tokenizer's encoder or decoder on a batch of images at `side` px, in pieces.

    A batch that suits a generator can be too large for these. Images do not depend on their
    neighbours.
    """
    return torch.cat([network(piece) for piece in x.split(max(1, PIXELS // side**2))])


class _Tensors(nn.Module):
    """Any named tensors, in the shape in which checkpoints take them."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, Tensor] = {}

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:  # type: ignore[override]
        # A file of no tensors at all is refused by safetensors.
        return self.tensors or {"none": torch.zeros(1)}

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], *args: object, **kwargs: object
    ) -> None:
        self.tensors = {name: value for name, value in state_dict.items() if name != "none"}


def _compiles(run: Run, num: int) -> bool:
    """Tell if compiling pays for `num` images; kernels of our own always do."""
    return run.compile and (num >= COMPILE_FROM or kernels.available(run.device))


def _quick(run: Run, tokenizer: Tokenizer) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Encoding and decoding by kernels or compiled, in the order of channels in which a GPU trained
    the tokenizer.
    """
    if run.device.type == "cuda":
        tokenizer.to(memory_format=torch.channels_last)
    if kernels.adopted_by(tokenizer, run.device):
        return tokenizer.encode, tokenizer.decode
    return startup.compiled(tokenizer.encode), startup.compiled(tokenizer.decode)


class _Reconstructions:
    """A tokenizer's images of the validation set, beside the originals."""

    def __init__(self, run: Run) -> None:
        config: EvaluationConfig = run.config
        self._run, self._side = run, config.data.resolution
        self.model_side = config.model_resolution or config.data.resolution
        tokenizer, quantizer, self.tokenizer_config = load_tokenizer(
            run.parents["tokenizer"], run.device
        )
        self._originals = data.open_images(config.data, run.settings, "val")
        self._shown = self._originals
        if self.model_side != self._side:
            shown = dataclasses.replace(config.data, resolution=self.model_side)
            self._shown = data.open_images(shown, run.settings, "val")
        self._chosen = spread(len(self._originals), config.num_samples)
        self.num = len(self._chosen)
        self.keep = spread(self.num, min(self.num, 2 * GRID_COLUMNS)).tolist()
        self._encode: Callable[[Tensor], Tensor] = tokenizer.encode
        self._decode: Callable[[Tensor], Tensor] = tokenizer.decode
        self._quantizer = quantizer
        if _compiles(run, self.num):
            self._encode, self._decode = _quick(run, tokenizer)

    def batch(self, a_pass: Pass, first: int, last: int) -> Batch:
        indices = self._chosen[first:last]
        reference = self._originals.center(indices).to(self._run.device)
        shown = reference
        if self._shown is not self._originals:
            shown = self._shown.center(indices).to(self._run.device)
        with _autocast(self._run):
            z_BND = in_pieces(self._encode, data.to_float(shown), self.model_side)
            code_BN = self._quantizer(z_BND, 0).code_BN
            # Decoded from the codes, as samples are: a straight-through output rounds differently.
            x_BCHW = in_pieces(self._decode, self._quantizer.lookup(code_BN), self.model_side)
        return Batch(
            image_BCHW=data.to_uint8(resize(x_BCHW, self._side)),
            reference_BCHW=reference,
            code_BN=code_BN,
            label_B=self._originals.labels[indices],
        )

    def rows(self, kept: dict[int, tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        """Return originals over reconstructions, twice."""
        rows = []
        for start in range(0, len(self.keep), GRID_COLUMNS):
            part = [kept[index] for index in self.keep[start : start + GRID_COLUMNS]]
            rows.append(torch.stack([original for _, original in part if original is not None]))
            rows.append(torch.stack([image for image, _ in part]))
        return rows

    def columns(self) -> dict[str, Any]:
        return {}


class _Samples:
    """A generator's images: class counts as `label_prior` says, one seed per image."""

    def __init__(self, run: Run) -> None:
        config: EvaluationConfig = run.config
        assert config.num_samples is not None
        self._run, self._config, self._side = run, config, config.data.resolution
        self.num = config.num_samples
        codes: CodesConfig = run.parent_config("codes")
        self.model_side = codes.data.resolution
        tokenizer, self._quantizer, self.tokenizer_config = load_tokenizer(
            run.parents["tokenizer"], run.device
        )
        self._generator, self._generator_config = load_generator(
            run.parents["generator"], run.device
        )
        if config.numerics.precision == "bf16":
            draw.cast_matrices(self._generator, torch.bfloat16)
        self._sizes = legal_sizes(run.parents["tokenizer"], self._generator.tokens_per_image)
        compiled = _compiles(run, self.num)
        self._decode = _quick(run, tokenizer)[1] if compiled else tokenizer.decode
        self._sampler = Sampler(self._generator, self._sizes)
        self._classes = self._generator.num_classes
        self._label_N = self._labels()
        rows = spread(self._classes, min(self._classes, GRID_ROWS))
        shown = rows[torch.isin(rows, self._label_N)].tolist() or self._label_N[:1].tolist()
        self._rows = [
            (self._label_N == label).nonzero()[:GRID_COLUMNS, 0].tolist() for label in shown
        ]
        self.keep = [index for row in self._rows for index in row]

    def _labels(self) -> Tensor:
        """Return the class of each sample [num]."""
        counts = [1] * self._classes
        if self._config.label_prior == "as_reference" and self._classes > 1:
            split, wanted = label_prior.reference_of(self._config.metrics)
            images = data.open_images(self._config.data, self._run.settings, split)
            label_N = images.labels[train_subset(len(images), wanted)]
            counts = label_N.bincount(minlength=self._classes).tolist()
        return torch.tensor(label_prior.sample_labels(self.num, counts))

    def batch(self, a_pass: Pass, first: int, last: int) -> Batch:
        assert a_pass.cfg_scale is not None
        label_B = self._label_N[first:last]
        # The seeds do not depend on the run: generators are compared on the same random numbers.
        seeds = [derive_seed("sample", a_pass.seed, index) for index in range(first, last)]
        how = dataclasses.replace(self._config.sampling, cfg_scale=a_pass.cfg_scale)
        with _autocast(self._run):
            code_BN = self._sampler(label_B.to(self._run.device), seeds, how, self._run.stopping)
            x_BCHW = in_pieces(self._decode, self._quantizer.lookup(code_BN), self.model_side)
        return Batch(
            image_BCHW=data.to_uint8(resize(x_BCHW, self._side)),
            reference_BCHW=None,
            code_BN=code_BN,
            label_B=label_B,
        )

    def rows(self, kept: dict[int, tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        """Return one row per class."""
        return [torch.stack([kept[index][0] for index in row]) for row in self._rows]

    def columns(self) -> dict[str, Any]:
        """Return the FLOPs of one image: generator with its guidance, and the decoder."""
        config: GeneratorConfig = self._generator_config
        num_codes = self.tokenizer_config.quantizer.config.num_codes
        drawn = flops.generator_flops_sample(
            config.model,
            num_codes,
            self._classes,
            self._generator.tokens_per_image,
            guided=is_guided(self._config),
        )
        larger = (self.model_side / self.tokenizer_config.data.resolution) ** 2
        decoded = 2 * flops.tokenizer_cost(self.tokenizer_config).decoder.macs * larger
        return {"flops_sample": float(drawn + decoded)}


@dataclass(slots=True)
class _Done:
    """Results of finished passes: plain data, so that it fits into a checkpoint."""

    values: list[dict[str, Any]] = field(default_factory=list)
    tried: list[list[float]] = field(default_factory=list)  # [scale, distance]
    tried_values: list[list[dict[str, Any]]] = field(default_factory=list)  # of the scales tried

    def best(self) -> int | None:
        """Place of the scale with the smallest distance; the first of equals."""
        distances = [distance for _, distance in self.tried]
        return distances.index(min(distances)) if distances else None


class _Evaluation:
    """Runs the passes of a subject with their metrics, checkpointing between batches."""

    def __init__(self, run: Run, subject: _Reconstructions | _Samples) -> None:
        self._run, self._subject = run, subject
        self._config: EvaluationConfig = run.config
        tokenizer: TokenizerConfig = subject.tokenizer_config
        length = tokenizer.tokenizer.config.tokens_per_image(subject.model_side)
        sizes = legal_sizes(run.parents["tokenizer"], length)
        extractor = run.parents.get("extractor")
        self._columns = {
            "codebook_size": tokenizer.quantizer.config.num_codes,
            "tokens_per_image": length,
            **subject.columns(),
        }
        self._context = Context(
            stage=self._config.subject,
            device=run.device,
            num_codes=tokenizer.quantizer.config.num_codes,
            tokens_per_image=length,
            resolution=self._config.data.resolution,
            reference=self._reference,
            reference_id=reference_id(run.config, run),
            weights=run.settings.locations.get("weights") or {},
            store=run.dir.home / "cache" / "reference",
            extractor=extractor.path if extractor else None,
            extractor_id=extractor.id if extractor else None,
            codebook_sizes=tuple(sizes) if sizes else None,
        )
        self._selection = self._selection_config()
        self._held = _Tensors()
        self._pictures: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._picture: Tensor | None = None  # the finished PNG file

    # ------------------------------------------------------------------------------- the passes

    def result(self) -> Result:
        run, subject = self._run, self._subject
        done, number, first = self._resume()
        batches = -(-subject.num // self._config.batch_size)
        passes = list_passes(self._config)
        while number < len(passes):
            a_pass = passes[number]
            if not a_pass.selecting and done.tried:
                best = done.best()
                assert best is not None
                a_pass = dataclasses.replace(a_pass, cfg_scale=done.tried[best][0])
            metrics = self._metrics(a_pass)
            for name, metric in metrics.items():
                self._merge(name, metric)
            clock, at = time.monotonic(), first
            while first < subject.num:
                step = number * batches + first // self._config.batch_size
                if run.stopping():
                    self._save(step, done, number, first, metrics)
                    raise Preempted(f"stopped at image {first} of pass {number + 1}")
                if first > at and run.save_due(step):
                    self._save(step, done, number, first, metrics)
                last = min(first + self._config.batch_size, subject.num)
                try:
                    with torch.inference_mode():
                        batch = subject.batch(a_pass, first, last)
                        with _full_precision():
                            for metric in metrics.values():
                                metric.update(batch)
                except InterruptedError as error:
                    self._save(step, done, number, first, metrics)
                    raise Preempted(f"stopped at image {first} of pass {number + 1}") from error
                self._keep(number, batch, first)
                first = last
                rate = (first - at) / max(1e-9, time.monotonic() - clock)
                total = len(passes) * subject.num
                run.progress(number * subject.num + first, total, "evaluation", rate)
            self._finish(number, a_pass, metrics, done)
            self._draw(number, done)
            number, first = number + 1, 0
        self._store(done)
        best = done.best()
        trees = done.values if best is None else [*done.tried_values[best], *done.values]
        return Result(values=[Value(**tree) for tree in trees], columns=self._columns)

    def _metrics(self, a_pass: Pass) -> dict[str, Metric]:
        """Fresh metrics of a pass by name; the one that chooses the scale is called `selection`."""
        metrics: dict[str, Metric] = {}
        with processes.collector_paused():  # the first ones import their libraries, for seconds
            for part in self._config.metrics:
                module = parts.load("metrics", part.name)
                metrics[part.name] = module.Metric(part.config, self._context)
        if a_pass.selecting:
            name, config = self._selection
            module = parts.load("metrics", name)
            metrics["selection"] = module.Metric(config, self._context)
        return metrics

    def _finish(self, number: int, a_pass: Pass, metrics: dict[str, Metric], done: _Done) -> None:
        """Compute the values of a complete pass.

        ValueError for an undefined one: the study asked for it.
        """
        # Computing may pass the reference images through a network as well.
        with _full_precision():
            computed = {name: metric.compute() for name, metric in metrics.items()}
        if a_pass.selecting:
            distance = _refuse_undefined(computed.pop("selection")[0])
            done.tried.append([float(a_pass.cfg_scale or 0.0), distance])
        trees = []
        declared = {name: parts.load("metrics", name).BETTER for name in computed}
        for name, found in computed.items():
            for value in found:
                _refuse_undefined(value)
                better = directions.better(declared[name], value.metric)
                tree = dataclasses.asdict(value) | {"better": better}
                if a_pass.seed is not None:
                    tree["provenance"] |= {"seed": a_pass.seed, "cfg_scale": a_pass.cfg_scale}
                    for name in ("cfg_selection", "label_prior"):
                        tree["provenance"][name] = getattr(self._config, name)
                trees.append(tree)
        (done.tried_values.append(trees) if a_pass.selecting else done.values.extend(trees))
        self._run.log({"step": number, "cfg_scale": a_pass.cfg_scale, "values": trees})
        self._held.tensors = {}

    # ----------------------------------------------------------------------------- checkpoints

    def _resume(self) -> tuple[_Done, int, int]:
        """Return the finished passes, the pass to go on with, and its first image."""
        found = checkpoints.load(self._run, {"partial": self._held}, {})
        extra: dict[str, Any] = found[1] if found else {"pass": 0}
        # Passes are the steps of the log; the one that is cut short has not been logged.
        checkpoints.truncate_log(self._run, int(extra["pass"]))
        if found is None:
            return _Done(), 0, 0
        self._run.seconds_before = float(extra["seconds"])
        done = _Done(extra["values"], extra["tried"], extra["tried_values"])
        self._picture = self._held.tensors.get("picture")
        for name, tensor in self._held.tensors.items():
            kind, _, index = name.partition(" ")
            if kind == "image":
                original = self._held.tensors.get(f"original {index}")
                self._pictures[int(index)] = (tensor, original)
        return done, int(extra["pass"]), int(extra["first"])

    def _save(
        self, step: int, done: _Done, number: int, first: int, metrics: dict[str, Metric]
    ) -> None:
        tensors = {
            f"metric {name} {key}": value
            for name, metric in metrics.items()
            for key, value in metric.state().items()
        }
        if self._picture is not None:
            tensors["picture"] = self._picture
        for index, (image, original) in self._pictures.items():
            tensors[f"image {index}"] = image
            if original is not None:
                tensors[f"original {index}"] = original
        held = _Tensors()
        held.tensors = tensors
        extra = dataclasses.asdict(done) | {
            "pass": number,
            "first": first,
            "seconds": self._run.seconds(),
        }
        checkpoints.save(self._run, step, {"partial": held}, {}, extra)

    def _merge(self, name: str, metric: Metric) -> None:
        prefix = f"metric {name} "
        kept = {
            key.removeprefix(prefix): value
            for key, value in self._held.tensors.items()
            if key.startswith(prefix)
        }
        if kept:
            metric.merge(kept)

    # -------------------------------------------------------------------------------- pictures

    def _keep(self, number: int, batch: Batch, first: int) -> None:
        """Keep the images of the stored picture, of the pass that it shows."""
        for index in self._subject.keep:
            if first <= index < first + len(batch.image_BCHW):
                place = index - first
                original = None
                if batch.reference_BCHW is not None:
                    original = batch.reference_BCHW[place].cpu()
                self._pictures[index] = (batch.image_BCHW[place].cpu(), original)

    def _draw(self, number: int, done: _Done) -> None:
        """Draw the picture of the first pass, or of the best scale so far."""
        best = done.best()
        shown = number == 0 if best is None else number == best
        if shown:
            png = picture(self._subject.rows(self._pictures))
            self._picture = torch.frombuffer(bytearray(png), dtype=torch.uint8)
        self._pictures = {}

    def _store(self, done: _Done) -> None:
        """Store the picture, and the scales tried with their distances and scores."""
        assert self._picture is not None
        name = "samples" if self._config.subject == "generator" else "reconstructions"
        self._run.artifact(f"{name}.png", self._picture.numpy().tobytes())
        if done.tried:
            content = {
                "cfg_selection": self._config.cfg_selection,
                "tried": [
                    {
                        "cfg_scale": scale,
                        "distance": distance,
                        # As runs of before `better` wrote it, so that their files compare equal.
                        "values": [
                            {k: v for k, v in one.items() if k != "better"} for one in values
                        ],
                    }
                    for (scale, distance), values in zip(done.tried, done.tried_values, strict=True)
                ],
            }
            self._run.artifact("cfg_selection.json", canonical_json(content).encode())

    # ------------------------------------------------------------------------------- references

    def _reference(self, split: str, wanted: int | None) -> Iterator[Tensor]:
        """Real images of a split, uint8 batches, center crops at the metrics' resolution: all, or
        the first `wanted` of a fixed random order.
        """
        images = data.open_images(self._config.data, self._run.settings, split)
        for index_B in train_subset(len(images), wanted).split(self._config.batch_size):
            if self._run.stopping():
                raise Preempted("stopped while reading the reference images")
            yield images.center(index_B)

    def _selection_config(self) -> tuple[str, Any]:
        """Metric and config that choose the guidance scale; ValueError when there is none."""
        if self._config.cfg_selection == "fixed":
            return "", None
        for part in self._config.metrics:
            module = parts.load("metrics", part.name)
            if issubclass(module.Metric, Distance):
                chosen = module.Metric.for_selection(part.config, self._config.cfg_selection)
                return part.name, chosen
        raise ValueError(
            f"cfg_selection: {self._config.cfg_selection!r} needs a metric that is a distance to "
            "real images, such as fcd or fid"
        )


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Turn TF32 off: published distances are fp32's, whatever the models are run in."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _refuse_undefined(value: Value) -> float:
    if value.value is None:
        why = value.provenance.get("undefined", "it has no value")
        raise ValueError(f"metrics: {value.metric} is undefined here: {why}")
    return float(value.value)


def _autocast(run: Run) -> torch.autocast:
    enabled = run.config.numerics.precision == "bf16"
    return torch.autocast(run.device.type, torch.bfloat16, enabled=enabled)


def _check_extractor(run: Run) -> None:
    """Check that the extractor knows the same images at the same size.

    Its statistics are the reference.
    """
    if "extractor" not in run.parents:
        return
    known: ExtractorConfig = run.parent_config("extractor")
    for name in ("dataset", "digest", "resolution"):
        theirs, ours = getattr(known.data, name), getattr(run.config.data, name)
        if theirs != ours:
            raise ValueError(
                f"data.{name}: {ours!r} in the evaluation, {theirs!r} in its extractor; they must "
                "be equal"
            )
