"""Every knob of a scan.

`paper` holds the values of the published experiments (paper, section 4.1, and the configuration that
its authors published); `default` is whatever measures best. A `ScanConfig` carries one resolved
`MethodConfig` or `DirectMethodConfig`, so that what ran is always written down in full.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from vbdguard.engines.base import EngineName, processors
from vbdguard.engines.limits import Limits
from vbdguard.errors import ConfigError

Preset = Literal["default", "paper"]
FolderRule = Literal["torchvision", "huggingface"]

SMALLEST_SIDE, LARGEST_SIDE = 8, 512
"""Pixels a side that a scan can look at."""
SHARD_TIMEOUT = 1800.0
"""Seconds: gigabytes over a slow network take their time, and a shard that hangs is rare."""
WORKER_MEMORY = 4096
"""MB: four times what the largest image that is decoded takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """Stage 1: the simple poisoned models. The values are the published ones."""

    architectures: tuple[tuple[int, ...], ...] = ((64,), (10, 10), (16, 16))
    """Filters per block, one tuple per model."""
    train_share: float = 0.8
    """Share of each class that trains; the rest is the detection split (1: all samples do both)."""
    epochs: int = 20
    batch_size: int | None = None
    """None: 256, or 64 for images of 64 pixels and more, as published."""
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _require("train_share must be above 0 and at most 1", 0 < self.train_share <= 1, self.train_share)
        _require("epochs must be at least 1", self.epochs >= 1, self.epochs)
        _require("architectures must name at least one model", bool(self.architectures), self.architectures)
        _require("lr must be above 0", self.lr > 0, self.lr)

    def batch(self, image_shape: tuple[int, int, int], n_train: int) -> int:
        """Return the batch size for `n_train` training samples of a shape."""
        published = 64 if max(image_shape[:2]) >= 64 else 256
        return max(1, min(self.batch_size or published, n_train))


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectsConfig:
    """Stage 2: the gradient test."""

    top: int = 20
    """Samples on each side of the test."""
    min_top: int = 5
    significance: float = 0.01
    """Largest p-value that makes a class suspect."""

    def __post_init__(self) -> None:
        _require("min_top must be 2 to top", 2 <= self.min_top <= self.top, (self.min_top, self.top))
        _require("significance must be at least 0", self.significance >= 0, self.significance)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackCheckConfig:
    """Stage 4: the attack success rate of a candidate, and the choice among the models' candidates."""

    share: float = 0.1
    """Share of the detection split's other classes that is patched."""
    min_success_rate: float = 0.33
    accuracy_weight: float = 0.6

    def __post_init__(self) -> None:
        _require_share("share", self.share)
        _require_share("accuracy_weight", self.accuracy_weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """Stage 5: the detector of one trigger."""

    filters: int = 32
    dropout: float = 0.5
    epochs: int = 20
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    blend_range: tuple[float, float] = (0.2, 1.0)
    """Blend factors that patched samples are drawn with (published runs; the paper's text says 0.1 to 1)."""
    pseudo_first: int = 6
    """Pseudo-labels are renewed after each epoch from this one ..."""
    pseudo_last: int = 12
    """... to this one, counted from 1."""
    min_accuracy: float = 0.75
    threshold: float = 0.5

    def __post_init__(self) -> None:
        _require_counts(self, "filters", "epochs", "batch_size")
        _require_blend_range(self.blend_range)
        _require_share("dropout", self.dropout)
        _require_share("threshold", self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """The settings of stages 1 to 6 as published (preset `paper`)."""

    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    suspects: SuspectsConfig = field(default_factory=SuspectsConfig)
    attack_check: AttackCheckConfig = field(default_factory=AttackCheckConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)

    @property
    def fewest_in_class(self) -> int:
        """Samples that some class must have for the data to be judged at all."""
        return 2 * self.suspects.min_top


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """How much of the data preset `default` learns from; everything is judged.

    Below both caps that is all of it.
    """

    per_class: int = 10_000
    """Samples of a class, at most."""
    megabytes: int = 1024
    """MB of pixels, one byte for each channel, at most; the largest classes give way first."""

    def __post_init__(self) -> None:
        _require("per_class must be at least 100", self.per_class >= 100, self.per_class)
        _require("megabytes must be at least 1", self.megabytes >= 1, self.megabytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastConfig:
    """Stage 2 of preset `default`: where class means differ as no natural classes do."""

    side: int = 5
    """Side of the windows that are compared, odd, in pixels."""
    natural_share: float = 0.9
    """Share of all windows, the most ordinary, that says what is natural."""
    min_score: float = 1.2
    """Lowest score of a place that is looked at; about 1 is ordinary."""
    places: int = 4
    """Places looked at in a class, at most."""
    rare_share: float = 0.001
    """Share of all pixels that differ from their neighbours as few do, by which a trigger on few samples is found."""
    rare_min_score: float = 5.0
    """Lowest score of a place that is looked at for the sake of such pixels."""
    rare_places: int = 2
    """Such places looked at in a class, at most."""

    def __post_init__(self) -> None:
        _require_counts(self, "places")
        _require("rare_places must be at least 0", self.rare_places >= 0, self.rare_places)
        _require("side must be odd and at least 3", self.side >= 3 and self.side % 2 == 1, self.side)
        _require("natural_share must be above 0 and at most 1", 0 < self.natural_share <= 1, self.natural_share)
        _require("rare_share must be above 0 and below 1", 0 < self.rare_share < 1, self.rare_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """Stage 3 of preset `default`: which samples of a class carry something, and what."""

    side: int = 9
    """Side of the window around a place, in pixels."""
    others: int = 6000
    """Samples of other classes that stand for clean ones, at most."""
    rounds: int = 6
    """Rounds of expectation maximisation, at most."""
    min_carriers: int = 6
    """Fewest samples that a trigger can be read from."""
    min_gain: float = 30.0
    """Log-likelihood, in nats, that a trigger must explain for its class to be suspect."""

    def __post_init__(self) -> None:
        _require_counts(self, "others", "rounds")
        _require("side must be at least 3", self.side >= 3, self.side)
        _require("min_carriers must be at least 2", self.min_carriers >= 2, self.min_carriers)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowDetectorConfig:
    """Stage 5 of preset `default`: the detector of a trigger's neighbourhood."""

    margin: int = 4
    """Pixels around the trigger's bounding box."""
    max_side: int = 16
    """Longest side of the window in pixels."""
    blend_slack: tuple[float, float] = (0.75, 1.3)
    """Patched samples are drawn with blend factors from this range around the estimated one, as multiples of it."""
    filters: int = 16
    hidden: int = 32
    epochs: int = 5
    rounds: int = 1
    """How often the trigger is read anew from the flagged samples and the detector trained again."""
    batch_size: int = 128
    lr: float = 5e-3
    weight_decay: float = 1e-3
    doubt: float = 0.05
    """Errors that a detector expects of itself, for each carrier that it expects, from which on it is in doubt."""
    thorough_epochs: int = 10
    """Epochs of a detector that many share, or that comes after one in doubt, which learned from the samples of
    stage 3 alone."""
    thorough_others: int = 24_000
    """Samples of other classes that it learns from, at most, unless it looks at so many places that each had few."""
    per_place: int = 500
    """Those for each place, at least, as far as there are so many."""
    threshold: float = 0.5

    def __post_init__(self) -> None:
        _require_counts(self, "filters", "hidden", "epochs", "batch_size", "thorough_epochs", "thorough_others")
        low, high = self.blend_slack
        _require("blend_slack must be two rising numbers above 0", 0 < low <= high, self.blend_slack)
        # A pixel in a corner has a window of margin + 1 pixels, and the network needs five.
        _require("margin must be at least 4", self.margin >= 4, self.margin)
        _require("max_side must be at least 6", self.max_side >= 6, self.max_side)
        _require_share("threshold", self.threshold)

    def thorough(self, places: int = 1) -> WindowDetectorConfig:
        """Return the settings of a thorough detector of a trigger that lies at so many places."""
        others = max(self.thorough_others, self.per_place * places)
        return replace(self, epochs=self.thorough_epochs, thorough_others=others)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCheckConfig:
    """The second proof of preset `default`: flagged samples must be strangers in their class."""

    architecture: tuple[int, ...] = (16, 32, 64)
    """Filters of each block of the models that see no trigger."""
    epochs: int = 5
    min_steps: int = 200
    """Fewest optimiser steps; small data sets get more epochs until they have them."""
    batch_size: int = 128
    lr: float = 1e-2
    weight_decay: float = 5e-2
    max_side: int = 32
    """Images of this many pixels a side, or more, are judged by a copy halved once, and on until it is no larger."""
    max_blanked: float = 0.25
    """Share of the image up to which triggers are painted over, not counting a pixel around each."""
    max_opaque: float = 0.75
    """The same for triggers that hide what is below them."""
    rounds: int = 3
    """How often what is left is looked into where not all suspects can be painted over at once."""
    clear_gain: float = 100.0
    """Log-likelihood (nats) of suspects that are looked into in any case, however many rounds it takes: nobody shall
    hide a trigger behind louder ones."""
    significance: float = 1e-3
    """Chance that the flagged samples of any class fit so badly though they are like the kept ones: the most that is
    taken for proof. It is shared out over all suspects."""

    def __post_init__(self) -> None:
        _require("architecture must name at least one block", bool(self.architecture), self.architecture)
        _require_counts(self, "epochs", "batch_size", "max_side", "rounds")
        _require("lr must be above 0", self.lr > 0, self.lr)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectMethodConfig:
    """The settings of preset `default`, which looks at the samples before it trains anything."""

    sample: SampleConfig = field(default_factory=SampleConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    detector: WindowDetectorConfig = field(default_factory=WindowDetectorConfig)
    label_check: LabelCheckConfig = field(default_factory=LabelCheckConfig)
    coarse_side: int = 8
    """Longest side of the coarse images, in pixels, in which triggers that cover the whole image are looked for."""

    def __post_init__(self) -> None:
        _require("coarse_side must be at least 6", self.coarse_side >= 6, self.coarse_side)

    @property
    def fewest_in_class(self) -> int:
        """Samples that some class must have for the data to be judged at all."""
        return 10


def method_preset(name: Preset) -> MethodConfig | DirectMethodConfig:
    """Return the settings that a preset's name stands for."""
    return MethodConfig() if name == "paper" else DirectMethodConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """The settings of one scan.

    Args:
        preset: `default`, or `paper` for the published settings.
        seed: seed of everything random, 0 to 2**32 - 1.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        image_size: canonical height and width in pixels, one number or (height, width), 8 to 512;
            None takes it from the data (see `vbdguard.ingest.decode`).
        label_key: name of the tar member suffix, JSON key or parquet column that holds the label;
            None looks for the usual ones.
        folder_rule: whose rule gives a folder of images its labels, `torchvision` or `huggingface`; None asks where
            they differ.
        run_commands: whether sources named `pipe:...` run as shell commands, with all that the user may do.
        engine: where the data are read: `local`, in processes of this machine, or `ray`, in tasks of a Ray cluster
            (extra `ray`). Never changes a result, nor do the next three, as long as nothing is lost.
        jobs: shards that are read at once; None takes one per core, or as many as the Ray cluster has room for.
        shard_timeout: seconds that the reading of one shard may take before it is given up.
        worker_memory: MB of memory that each of those processes may take, 512 or more.
        method: settings of stages 1 to 6; None takes those of the preset.

    Raises:
        ConfigError: if a value is out of range.
    """

    preset: Preset = "default"
    seed: int = 0
    device: str = "auto"
    image_size: int | tuple[int, int] | None = None
    label_key: str | None = None
    folder_rule: FolderRule | None = None
    run_commands: bool = False
    engine: EngineName = "local"
    jobs: int | None = None
    shard_timeout: float = SHARD_TIMEOUT
    worker_memory: int = WORKER_MEMORY
    method: MethodConfig | DirectMethodConfig = field(default=None)  # type: ignore[assignment]  # resolved in __post_init__

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigError(f"preset must be one of {', '.join(get_args(Preset))}, got {self.preset!r}")
        if self.folder_rule is not None and self.folder_rule not in get_args(FolderRule):
            raise ConfigError(f"folder_rule must be one of {', '.join(get_args(FolderRule))}, got {self.folder_rule!r}")
        if self.engine not in get_args(EngineName):
            raise ConfigError(f"engine must be one of {', '.join(get_args(EngineName))}, got {self.engine!r}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be 0 to {2**32 - 1}, got {self.seed}")
        size = self.canonical_size
        if size is not None and not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
            sides = f"{SMALLEST_SIDE} to {LARGEST_SIDE}"
            raise ConfigError(f"image_size must be {sides} pixels a side, got {self.image_size}")
        object.__setattr__(self, "image_size", size)  # one spelling, so that equal settings are equal
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs must be at least 1, got {self.jobs}")
        _require("shard_timeout must be above 0 seconds", self.shard_timeout > 0, self.shard_timeout)
        _require("worker_memory must be at least 512 MB", self.worker_memory >= 512, self.worker_memory)
        if self.method is None:
            object.__setattr__(self, "method", method_preset(self.preset))

    @property
    def canonical_size(self) -> tuple[int, int] | None:
        """Height and width in pixels, or None where the data decide."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def local_jobs(self) -> int:
        """How many processes of this machine work at once: `jobs`, or one per core that this process may use."""
        return self.jobs or processors()

    @property
    def reading_jobs(self) -> int | None:
        """How many shards are read at once; None leaves it to the Ray cluster."""
        return self.jobs if self.engine == "ray" else self.local_jobs

    @property
    def reading_limits(self) -> Limits:
        """What one shard may cost; whatever exceeds it is named as unreadable."""
        return Limits(seconds=self.shard_timeout, memory_bytes=self.worker_memory << 20)

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that a result depends on, JSON-ready: not `seed`, `device` or how the data are read."""
        body = asdict(self)
        for name in ("run_commands", "engine", "jobs", "shard_timeout", "worker_memory", "seed", "device"):
            del body[name]
        body["image_size"] = self.canonical_size and list(self.canonical_size)
        return body


def _require(rule: str, is_met: bool, value: object) -> None:
    if not is_met:
        raise ConfigError(f"{rule}, got {value!r}")


def _require_counts(settings: object, *names: str) -> None:
    for name in names:
        _require(f"{name} must be at least 1", getattr(settings, name) >= 1, getattr(settings, name))


def _require_share(name: str, value: float) -> None:
    _require(f"{name} must be 0 to 1", 0 <= value <= 1, value)


def _require_blend_range(blend_range: tuple[float, float]) -> None:
    low, high = blend_range
    _require("blend_range must be two rising numbers above 0, at most 1", 0 < low <= high <= 1, blend_range)
