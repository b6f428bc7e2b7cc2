"""Every setting of the pipeline: its type, its default, one line of meaning, and whether it changes results.

The defaults are those of the embedded demo competition. A field made with `runtime_only` may differ between two
runs of the same folder without changing a number in it (where files lie, how many loader processes).
"""

from dataclasses import dataclass, field
from typing import Literal

from src.settings.ensembling import EnsembleSettings
from src.settings.fields import number, runtime_only, section
from src.settings.model import (
    NON_AUTOREGRESSIVE,
    NON_AUTOREGRESSIVE_WORDS,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    MosHeadSettings,
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


@dataclass(frozen=True)
class DataSettings:
    """Where the photos and labels are."""

    root: str | None = runtime_only(None)
    """Folder of the data set. Not given: data, or the demo in data/demo where a competition's train.csv is absent."""
    format: Literal["dacon", "coco", "karpathy", "flickr8k", "flickr30k"] = "dacon"
    """Layout of that folder, see data/README.md."""
    on_bad_photo: Literal["stop", "skip"] = runtime_only("stop")
    """A row or photo that cannot be used: stop with one line, or leave it out. Either way it is in rejected.csv."""


@dataclass(frozen=True)
class ViewSettings:
    """The form in which photos are cached and seen by the network."""

    size: int = number(128, low=16, high=4096)
    """Side of the square photo in pixels."""
    color: Literal["rgb", "gray"] = "rgb"
    """Three channels or one."""
    fit: Literal["squash", "pad", "crop", "native"] = "squash"
    """How a photo becomes square: aspect ratio given up, black borders, the centre, or pieces that are not resized."""
    crops: int = number(1, low=1, high=64)
    """native: pieces of a photo, the first at its centre. Training sees one of them in each epoch, the predicted score
    is the mean over all, and the caption that of the first."""


@dataclass(frozen=True)
class VocabularySettings:
    """Which words the captioner knows."""

    minimum_count: int = number(3, low=1)
    """A word seen fewer times in the training captions becomes <unk>."""
    maximum_size: int | None = number(None, low=1)
    """Keep only that many most frequent words."""
    maximum_words: int = number(40, low=1)
    """Longer training captions are cut after that many words."""


@dataclass(frozen=True)
class SplitSettings:
    """Folds for validation."""

    folds: int = number(3, low=2, high=1000)
    """Number of folds; each is validated once by a model trained on the others."""
    seed: int = number(0, low=0)
    """Seed of the assignment, apart from run.seed, so that runs with other seeds share folds."""
    holdout: float | None = number(None, low=0.001, high=0.9)
    """Share of photos of one single validation part, for example 0.1, instead of folds."""
    official: bool = False
    """Validate on the data set's own validation part (data.format coco, karpathy, flickr8k) instead of folds."""
    duplicate_distance: int = number(6, low=-1, high=7)
    """Photos whose 64-bit perceptual hashes differ in at most that many bits (0 to 7) share a fold; -1 to not look."""


@dataclass(frozen=True)
class PredictSettings:
    """How the checkpoints become predictions."""

    tta_flips: bool = True
    """Average the score over the photo and its mirror image."""
    tta_scales: list[float] = field(default_factory=lambda: [1.0])
    """Average the score over the photo at each of these sizes, 0.5 to 2 times that of the view."""
    candidates: bool = True
    """Also write each fold's caption candidates (greedy, beam, diverse beam, random samples) and pooled features, which
    ensemble.captions=mbr chooses from."""
    samples: int = number(10, low=1, high=1000)
    """Random captions among the candidates."""
    mos: Literal["blend", "network", "ridge", "boosting", "svr"] = "blend"
    """Member whose MOS is submitted: non-negative blend of all, or one alone. Every member's score is printed."""


@dataclass(frozen=True)
class CaptionWeights:
    """Weights of the competition's caption score (DACON 236134)."""

    cider_d: float = number(4.0, low=0)
    """Weight of CIDEr-D."""
    meteor: float = number(3.0, low=0)
    """Weight of METEOR."""
    bleu: float = number(2.0, low=0)
    """Weight of the mean of BLEU-3 and BLEU-4."""
    rouge_l: float = number(1.0, low=0)
    """Weight of ROUGE-L."""


@dataclass(frozen=True)
class MetricSettings:
    """The score."""

    weights: CaptionWeights = section(CaptionWeights)
    """Weights of the caption score."""
    bootstrap: int = number(1000, low=100)
    """Resamples behind each 95% interval."""
    spice: bool = False
    """Also compute SPICE; downloads 384 MB the first time and is slow."""


@dataclass(frozen=True)
class RunSettings:
    """Where a run lives and what it may use."""

    name: str = runtime_only("demo")
    """Folder under run.root; not given: the name of the --config file, or demo."""
    root: str = runtime_only("runs")
    """Folder of all runs and of the cache that they share."""
    seed: int = number(0, low=0)
    """Seed of weights, order, augmentation and dropout."""
    threads: int = number(2, low=1, high=1024)
    """Threads of torch; another number rounds otherwise."""
    workers: int = number(0, low=0, high=1024, runtime_only=True)
    """Processes that load training photos; preprocessing uses as many as there are cores."""
    jobs: int | None = number(None, low=1, high=1024, runtime_only=True)
    """Folds that are trained side by side, each in a process of its own; not given: as many as there are GPUs, or 1."""


@dataclass(frozen=True)
class Settings:
    """All settings."""

    data: DataSettings = section(DataSettings)
    """Where the photos and labels are."""
    view: ViewSettings = section(ViewSettings)
    """The form in which photos are cached."""
    vocabulary: VocabularySettings = section(VocabularySettings)
    """Words of the captioner."""
    split: SplitSettings = section(SplitSettings)
    """Folds."""
    task: Literal["both", "mos", "caption"] = "both"
    """What is learned and predicted."""
    encoder: EncoderSettings = section(EncoderSettings)
    """The network that sees the photo."""
    mos_head: MosHeadSettings = section(MosHeadSettings)
    """The head of the score."""
    decoder: DecoderSettings = section(DecoderSettings)
    """The captioner."""
    decoding: DecodingSettings = section(DecodingSettings)
    """Search for captions."""
    loss: LossSettings = section(LossSettings)
    """Weights of the tasks."""
    augment: AugmentSettings = section(AugmentSettings)
    """Changes to training photos."""
    optim: OptimSettings = section(OptimSettings)
    """Optimiser and learning rate."""
    train: TrainSettings = section(TrainSettings)
    """The course of training."""
    scheduled_sampling: ScheduledSamplingSettings = section(ScheduledSamplingSettings)
    """The captioner's own words fed in training."""
    self_critical: SelfCriticalSettings = section(SelfCriticalSettings)
    """Training for the captions' score."""
    tune: TuneSettings = section(TuneSettings)
    """The search for good settings."""
    predict: PredictSettings = section(PredictSettings)
    """From checkpoints to predictions."""
    ensemble: EnsembleSettings = section(EnsembleSettings)
    """From predictions of one run or many to what is submitted."""
    parallel: Literal["none", "dp", "ddp"] = runtime_only("none")
    """dp: nn.DataParallel over the GPUs there are. ddp: one process per GPU, started by torchrun."""
    metric: MetricSettings = section(MetricSettings)
    """The score."""
    run: RunSettings = section(RunSettings)
    """Where a run lives."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.encoder.pretrained and self.encoder.weights:
            raise ValueError("encoder.pretrained and encoder.weights exclude each other; keep one")
        if self.train.batch_size % self.train.accumulation_steps:
            raise ValueError(
                f"train.batch_size={self.train.batch_size} cannot be divided into "
                f"train.accumulation_steps={self.train.accumulation_steps} equal parts"
            )
        if self.decoding.minimum_words > self.decoding.maximum_words:
            raise ValueError("decoding.minimum_words is greater than decoding.maximum_words")
        if self.run.jobs not in (None, 1) and self.parallel != "none":
            raise ValueError(f"run.jobs={self.run.jobs} and parallel={self.parallel} divide the GPUs twice; keep one")
        if self.train.sync_batchnorm and self.parallel == "dp":
            raise ValueError("train.sync_batchnorm works over the processes of torchrun: parallel=ddp, not dp")
        if self.task != "caption" and self.loss.mos == "none" and not self.loss.compares:
            raise ValueError("loss.mos=none needs loss.plcc, loss.rank or loss.srcc: nothing would teach the MOS")
        if self.view.crops > 1 and self.view.fit != "native":
            raise ValueError(f"view.crops={self.view.crops} needs view.fit=native")
        self._check_encoder()
        self._check_scales()
        self._check_self_critical()
        self._check_non_autoregressive()
        self._check_tune()
        if self.ensemble.captions == "mbr" and not self.predict.candidates and self.task != "mos":
            raise ValueError("ensemble.captions=mbr needs predict.candidates=true; or give ensemble.captions=search")
        joined = self.ensemble.runs
        if joined is not None and (not joined or len(set(joined)) < len(joined)):
            raise ValueError(f"ensemble.runs={joined}: name each run once; leave it out for the run itself")
        if self.decoder.distill_from is not None and self.task == "mos":
            raise ValueError("decoder.distill_from: task=mos has no captions; leave it out")
        if self.decoder.distill_from is not None and self.decoder.distill_from == self.run.name:
            raise ValueError(f"decoder.distill_from={self.run.name} is this run itself; name another one")
        if self.split.official and self.split.holdout:
            raise ValueError("split.official and split.holdout exclude each other; keep one")
        fold_count = 1 if self.split.holdout or self.split.official else self.split.folds
        if self.train.fold is not None and self.train.fold >= fold_count:
            raise ValueError(f"--fold {self.train.fold}: there are folds 0 to {fold_count - 1} (split.folds)")
        searched = self.tune.folds
        if searched is not None and (not searched or not all(0 <= fold < fold_count for fold in searched)):
            raise ValueError(f"tune.folds={searched}: there are folds 0 to {fold_count - 1} (split.folds)")
        if not self.run.name.strip(". ") or set(self.run.name) & set("/\\\0"):
            raise ValueError(f"run.name={self.run.name!r}: expected the plain name of a folder")
        if self.run.name in ("cache", "comparison", "log", "submission"):
            raise ValueError(f"run.name={self.run.name}: that name is taken by the pipeline's own files")

    def _check_encoder(self) -> None:
        encoder, augment = self.encoder, self.augment
        if encoder.frozen and encoder.frozen_epochs:
            raise ValueError("encoder.frozen keeps the encoder frozen in all epochs; leave out encoder.frozen_epochs")
        if encoder.cache != "none" and not encoder.frozen:
            raise ValueError(f"encoder.cache={encoder.cache} needs encoder.frozen=true: features change otherwise")
        if encoder.cache != "none" and self.view.crops > 1:
            raise ValueError(f"encoder.cache={encoder.cache} keeps features of one piece of a photo; give view.crops=1")
        if encoder.cache != "none" and (augment.flip or augment.crop or augment.photometric):
            raise ValueError(
                f"encoder.cache={encoder.cache} keeps features of the photos as they are; give augment.flip=0 "
                "augment.crop=0 augment.photometric=0"
            )

    def _check_scales(self) -> None:
        scales = self.predict.tta_scales
        if not scales or len(set(scales)) < len(scales) or not all(0.5 <= scale <= 2 for scale in scales):
            raise ValueError(f"predict.tta_scales={scales}: expected a list of different numbers from 0.5 to 2")
        if scales != [1.0] and self.encoder.cache != "none":
            raise ValueError(
                f"predict.tta_scales={scales}: encoder.cache={self.encoder.cache} keeps features of one size"
            )
        if scales != [1.0] and self.encoder.name.startswith("fasterrcnn_"):
            raise ValueError(f"predict.tta_scales={scales}: encoder.name={self.encoder.name} detects at one size")

    def _check_tune(self) -> None:
        tune = self.tune
        if tune.objective is not None and self.task not in ("both", tune.objective):
            raise ValueError(f"tune.objective={tune.objective}: task={self.task} has no such score; leave it out")
        if tune.objective == "both" and tune.pruner != "none":
            raise ValueError("tune.objective=both has no order in which to prune; give tune.pruner=none")
        if tune.space == {} and tune.trials:
            raise ValueError("tune.space: nothing to search: it is empty, or all of it is given on the command line")
        if tune.storage is not None and not tune.storage.startswith(("sqlite:///", "postgresql:", "postgresql+")):
            raise ValueError("tune.storage: expected postgresql://USER@HOST/DATABASE or sqlite:///FILE")

    def _check_self_critical(self) -> None:
        chosen = self.self_critical
        if chosen.from_epoch is None:
            return
        if self.task == "mos":
            raise ValueError("self_critical.from_epoch: task=mos has no captions; leave it out")
        if chosen.baseline == "leave_one_out" and chosen.samples < 2:
            raise ValueError("self_critical.baseline=leave_one_out needs self_critical.samples of at least 2")
        if not chosen.cider_d + chosen.bleu3 + chosen.bleu4 + chosen.rouge_l + chosen.meteor:
            raise ValueError(
                "self_critical: cider_d, bleu3, bleu4, rouge_l and meteor are all 0, so there is no reward"
            )
        if chosen.from_epoch >= self.train.epochs:
            raise ValueError(
                f"self_critical.from_epoch={chosen.from_epoch} is not before the end, train.epochs={self.train.epochs}"
            )

    def _check_non_autoregressive(self) -> None:
        name = self.decoder.name
        if name not in NON_AUTOREGRESSIVE or self.task == "mos":
            return
        for words in ("vocabulary.maximum_words", "decoding.maximum_words"):
            section, field = words.split(".")
            if (given := getattr(getattr(self, section), field)) > NON_AUTOREGRESSIVE_WORDS:
                raise ValueError(
                    f"{words}={given}: decoder.name={name} writes at most {NON_AUTOREGRESSIVE_WORDS} words"
                )
        refused = {
            f"decoding.search={self.decoding.search}": self.decoding.search != "beam",
            f"decoding.model_averaging={self.decoding.model_averaging}": self.decoding.model_averaging != "none",
            "self_critical.from_epoch": self.self_critical.from_epoch is not None,
            "scheduled_sampling.probability": self.scheduled_sampling.probability > 0,
            "loss.attention_weight": self.loss.attention_weight > 0,
        }
        for setting in (setting for setting, given in refused.items() if given):
            raise ValueError(f"{setting} is for captioners that write word by word, not for decoder.name={name}")
        if name == "ctc_mask_predict" and self.loss.label_smoothing:
            raise ValueError(f"loss.label_smoothing is not for decoder.name={name}: CTC has no one target at a place")
