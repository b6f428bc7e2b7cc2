"""Every setting of the pipeline: type and bounds, default, meaning, and whether it changes results (see `fields`).

The defaults are those of the embedded demo competition.
"""

import os
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from src.settings.ensembling import EnsembleSettings
from src.settings.fields import STRICT, NonNegativeInt, Place, PositiveInt, RuntimeOnly
from src.settings.metric import CaptionWeights as CaptionWeights
from src.settings.metric import MetricSettings
from src.settings.model import (
    LARGE,
    NON_AUTOREGRESSIVE,
    NON_AUTOREGRESSIVE_WORDS,
    OWN_TOWER,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    MosHeadSettings,
    PredictSettings,
)
from src.settings.training import (
    AugmentSettings,
    LossSettings,
    OptimSettings,
    ScheduledSamplingSettings,
    SelfCriticalSettings,
    TrainSettings,
)
from src.settings.tuning import TuneSettings


@dataclass(frozen=True, config=STRICT)
class DataSettings:
    """Where the photos and labels are."""

    root: RuntimeOnly[Place | None] = None
    """Folder of the data set. Not given: data, or the demo in data/demo where a competition's train.csv is absent."""
    format: Literal["dacon", "coco", "karpathy", "flickr8k", "flickr30k"] = "dacon"
    """Layout of that folder, see data/README.md."""
    on_bad_photo: RuntimeOnly[Literal["stop", "skip"]] = "stop"
    """A row or photo that cannot be used: stop with one line, or leave it out. Either way it is in rejected.csv."""
    maximum_megapixels: Annotated[int, Field(ge=1, le=4000)] = 89
    """A photo of more million pixels cannot be used: it takes up to some 15 bytes of memory a pixel. Of a JPEG the
    pixels at the reduced scale of its decoding count, of a progressive one at least half of all."""


@dataclass(frozen=True, config=STRICT)
class ViewSettings:
    """The form in which photos are cached and seen by the network."""

    size: Annotated[int, Field(ge=16, le=4096)] = 224
    """Side of the square photo in pixels; with encoder.long_side only the layout of the cached grid follows from it."""
    color: Literal["rgb", "gray"] = "rgb"
    """Three channels or one."""
    fit: Literal["squash", "pad", "crop", "native"] = "squash"
    """How a photo becomes square. squash: the aspect ratio changes; pad: black borders; crop: the centre; native: crops
    at the original resolution."""
    crops: Annotated[int, Field(ge=1, le=64)] = 1
    """native: crops per photo, the first at its centre. Training sees one of them in each epoch, the predicted MOS is
    the mean over all, and the caption is that of the first."""

    def __post_init__(self) -> None:
        if self.crops > 1 and self.fit != "native":
            raise ValueError(f"view.crops={self.crops} needs view.fit=native")

    @property
    def channels(self) -> int:
        """Of a photo as it is seen."""
        return 3 if self.color == "rgb" else 1


@dataclass(frozen=True, config=STRICT)
class VocabularySettings:
    """The words that the captioner knows."""

    minimum_count: PositiveInt = 3
    """A word seen fewer times in the training captions becomes <unk>."""
    maximum_size: PositiveInt | None = 4000
    """Keep only that many most frequent words; null: all."""
    maximum_words: PositiveInt = 40
    """Longer training captions are cut after that many words."""


@dataclass(frozen=True, config=STRICT)
class SplitSettings:
    """Folds for validation."""

    folds: Annotated[int, Field(ge=2, le=1000)] = 4
    """Number of folds; each is validated once by a model trained on the others."""
    seed: NonNegativeInt = 0
    """Seed of the assignment, apart from run.seed, so that runs with other seeds share folds."""
    holdout: Annotated[float, Field(ge=0.001, le=0.9)] | None = None
    """Share of the photos in a single validation part, for example 0.1, instead of folds."""
    official: bool = False
    """Validate on the data set's own validation part (data.format coco, karpathy, flickr8k) instead of folds."""
    duplicate_distance: Annotated[int, Field(ge=-1, le=7)] = 6
    """Photos whose 64-bit perceptual hashes differ in at most that many bits (0 to 7) share a fold; -1: none."""

    def __post_init__(self) -> None:
        if self.official and self.holdout:
            raise ValueError("split.official and split.holdout exclude each other; keep one")

    @property
    def fold_count(self) -> int:
        """How many folds are validated."""
        return 1 if self.official or self.holdout else self.folds


_LONGEST_NAME = 200
"""Bytes of a run's name; files are named after it, and a file system takes some 255."""


@dataclass(frozen=True, config=STRICT)
class RunSettings:
    """Where a run lives and what it may use."""

    name: RuntimeOnly[str] = "demo"
    """Folder under run.root; not given: the name of the --config file, or demo."""
    root: RuntimeOnly[Place] = "runs"
    """Folder of all runs and of the cache that they share."""
    submissions: RuntimeOnly[Place] = "submissions"
    """Folder of the submissions."""
    seed: NonNegativeInt = 0
    """Seed of weights, order, augmentation and dropout."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of torch in each process; another number changes rounding."""
    workers: RuntimeOnly[Annotated[int, Field(ge=0, le=1024)]] = 0
    """Processes that load training photos; where they fail, the training process does it itself. Preprocessing uses as
    many as there are cores."""
    jobs: RuntimeOnly[Annotated[int, Field(ge=1, le=1024)] | None] = None
    """Folds that are trained and predicted side by side, and random trials of tune, each in a process of its own. Not
    given: as many as there are GPUs; without a GPU as many as there are cores (run.threads each) and memory for, or a
    few more, where a last fold would be alone."""
    minutes: RuntimeOnly[Annotated[float, Field(ge=0.01, le=10**5)] | None] = None
    """Time that the whole run may take: the stage plan then chooses settings that hold it. Not given: no limit."""
    kept: RuntimeOnly[list[str] | None] = None
    """Settings that run.minutes leaves as they are. Not given: those of the command line and of --config."""

    def __post_init__(self) -> None:
        if not self.name.strip(". ") or set(self.name) & set("/\\\0"):
            raise ValueError(f"run.name={self.name!r}: expected the plain name of a folder")
        if len(os.fsencode(self.name)) > _LONGEST_NAME:
            raise ValueError(f"run.name={self.name[:40]}…: longer than {_LONGEST_NAME} bytes; choose a shorter one")
        # some file systems tell no capitals from small letters
        if self.name.casefold() in ("cache", "comparison", "log", "submission"):
            raise ValueError(f"run.name={self.name}: that name is taken by the pipeline's own files")


@dataclass(frozen=True, config=STRICT)
class Settings:
    """All settings."""

    data: DataSettings = DataSettings()
    view: ViewSettings = ViewSettings()
    vocabulary: VocabularySettings = VocabularySettings()
    split: SplitSettings = SplitSettings()
    task: Literal["both", "mos", "caption"] = "both"
    """What is learned and predicted."""
    encoder: EncoderSettings = EncoderSettings()
    mos_head: MosHeadSettings = MosHeadSettings()
    decoder: DecoderSettings = DecoderSettings()
    decoding: DecodingSettings = DecodingSettings()
    loss: LossSettings = LossSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    scheduled_sampling: ScheduledSamplingSettings = ScheduledSamplingSettings()
    self_critical: SelfCriticalSettings = SelfCriticalSettings()
    tune: TuneSettings = TuneSettings()
    predict: PredictSettings = PredictSettings()
    ensemble: EnsembleSettings = EnsembleSettings()
    parallel: RuntimeOnly[Literal["none", "dp", "ddp"]] = "none"
    """dp: nn.DataParallel over the GPUs there are. ddp: one process per GPU, started by torchrun."""
    metric: MetricSettings = MetricSettings()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other; those within one group are refused by its own class."""
        self._check_task()
        self._check_view()
        self._check_devices()
        self._check_folds()
        self._check_large_captioner()
        if self.decoder.name in NON_AUTOREGRESSIVE and self.task != "mos":
            self._check_non_autoregressive()

    def _check_task(self) -> None:
        task, first, objective = self.task, self.self_critical.from_epoch, self.tune.objective
        if task != "caption" and self.loss.mos == "none" and not self.loss.compares:
            raise ValueError("loss.mos=none needs loss.plcc, loss.rank or loss.srcc: nothing would teach the MOS")
        if objective is not None and task not in ("both", objective):
            raise ValueError(f"tune.objective={objective}: task={task} has no such score; leave it out")
        if task == "mos" and first is not None:
            raise ValueError("self_critical.from_epoch: task=mos has no captions; leave it out")
        if first is not None and first >= (epochs := self.train.epochs):
            raise ValueError(f"self_critical.from_epoch={first} is not before the end, train.epochs={epochs}")
        if first is not None and self.loss.balance == "uncertainty":
            raise ValueError("loss.balance=uncertainty weighs likelihoods, not rewards: give fixed with self_critical")
        if task == "mos" and self.decoder.distill_from is not None:
            raise ValueError("decoder.distill_from: task=mos has no captions; leave it out")
        if (run := self.run.name) in (self.decoder.distill_from, self.train.start_from):
            raise ValueError(f"decoder.distill_from and train.start_from: {run} is this run itself; name another one")
        if self.run.minutes is not None and self.decoder.distill_from is not None:
            teacher = f"decoder.distill_from={self.decoder.distill_from}"
            raise ValueError(f"run.minutes counts no time for the captions that {teacher} writes first; leave out one")
        if self.run.name in self.ensemble.encoders:
            raise ValueError(f"ensemble.encoders: {self.run.name} is the name of the run; choose another run.name")
        if task != "mos" and self.ensemble.captions == "mbr" and not self.predict.candidates:
            raise ValueError("ensemble.captions=mbr needs predict.candidates=true; or give ensemble.captions=search")

    def _check_view(self) -> None:
        if self.ensemble.encoders and self.view.crops > 1:
            raise ValueError(f"ensemble.encoders see one crop of a photo, not view.crops={self.view.crops}; give 1")
        encoder, augment, scales = self.encoder, self.augment, self.predict.tta_scales
        if scales != [1.0] and encoder.name.startswith("fasterrcnn_"):
            raise ValueError(f"predict.tta_scales={scales}: encoder.name={encoder.name} detects at one size")
        if not encoder.cached:
            return
        keeps, instead = f"encoder.cache={encoder.cache} keeps", "or encoder.cache=none"
        if self.view.crops > 1:
            raise ValueError(f"{keeps} the features of one crop; give view.crops=1, {instead}")
        if augment.crop or augment.photometric:
            raise ValueError(f"{keeps} features of whole photos; give augment.crop=0 augment.photometric=0, {instead}")
        if augment.flip and not encoder.mirrored:
            raise ValueError("augment.flip needs cached features of mirrored photos: encoder.mirrored=true, or flip=0")
        if scales != [1.0]:
            raise ValueError(f"predict.tta_scales={scales}: {keeps} features of one size; leave it out, {instead}")

    def _check_devices(self) -> None:
        if self.run.jobs not in (None, 1) and self.parallel != "none":
            raise ValueError(f"run.jobs={self.run.jobs} and parallel={self.parallel} divide the GPUs twice; keep one")
        if self.train.sync_batchnorm and self.parallel == "dp":
            raise ValueError("train.sync_batchnorm works over the processes of torchrun: parallel=ddp, not dp")
        if self.train.compile and self.parallel == "dp":
            raise ValueError(
                "train.compile=true cannot compile the replicas of parallel=dp; give parallel=ddp, or leave one out"
            )

    def _check_folds(self) -> None:
        last, searched, judging = self.split.fold_count - 1, self.tune.folds, self.tune.judge_folds or []
        if self.train.fold is not None and self.train.fold > last:
            raise ValueError(f"--fold {self.train.fold}: there are folds 0 to {last} (split.folds)")
        if searched == []:
            raise ValueError(f"tune.folds=[]: there are folds 0 to {last} (split.folds)")
        for key, folds in (("folds", searched or []), ("judge_folds", judging)):
            if len(set(folds)) < len(folds) or not all(0 <= fold <= last for fold in folds):
                raise ValueError(f"tune.{key}={folds}: expected some of the folds 0 to {last}, each once")

    def _check_large_captioner(self) -> None:
        name, weights, large = self.decoder.name, self.decoder.weights, self.decoder.name in LARGE
        if self.loss.attention_weight and name in ("recurrent", "blip2") and self.task != "mos":
            raise ValueError(f"loss.attention_weight: decoder.name={name} does not attend to cells; give 0")
        if large != self.encoder.own_tower:
            wanted = f"encoder.name={OWN_TOWER}" if large else "another encoder.name"
            other = f"decoder.name={name} and encoder.name={self.encoder.name} do not go together"
            raise ValueError(f"{other}: {', '.join(LARGE)} have a vision tower of their own; give {wanted}")
        if large != (weights is not None):
            wanted = "needs decoder.weights=FOLDER or a name on the hub" if large else "has no decoder.weights"
            raise ValueError(f"decoder.name={name} {wanted}")
        rank = self.decoder.lora_rank
        if rank and not (large and self.encoder.pretrained):
            raise ValueError(
                f"decoder.lora_rank={rank} trains adapters beside published weights: give decoder.name="
                f"{', '.join(LARGE)} and encoder.pretrained=true"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is learned: mos, caption, or these two."""
        return ("mos", "caption") if self.task == "both" else (self.task,)

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained, beside weights that are in no checkpoint."""
        return bool(self.encoder.lora_rank or (self.decoder.lora_rank and self.task != "mos"))

    def _check_non_autoregressive(self) -> None:
        name = self.decoder.name
        longest = {
            "vocabulary.maximum_words": self.vocabulary.maximum_words,
            "decoding.maximum_words": self.decoding.maximum_words,
        }
        for key, words in longest.items():
            if words > NON_AUTOREGRESSIVE_WORDS:
                raise ValueError(f"{key}={words}: decoder.name={name} writes at most {NON_AUTOREGRESSIVE_WORDS} words")
        autoregressive = {
            f"decoding.search={self.decoding.search}": self.decoding.search != "beam",
            f"decoding.model_averaging={self.decoding.model_averaging}": self.decoding.model_averaging != "none",
            "self_critical.from_epoch": self.self_critical.from_epoch is not None,
            "scheduled_sampling.probability": self.scheduled_sampling.probability > 0,
            "loss.attention_weight": self.loss.attention_weight > 0,
        }
        for setting in (setting for setting, used in autoregressive.items() if used):
            raise ValueError(f"{setting} is for captioners that write word by word, not for decoder.name={name}")
