"""Every setting of the pipeline: its type, its default, one line of meaning, and whether it changes results.

The defaults are those of the embedded demo competition. A field made with `aside` may differ between two
runs of the same folder without changing a number in it (where files lie, how many loader processes).
"""

from dataclasses import dataclass, field
from typing import Any, Literal


def aside(default: Any) -> Any:
    """A field that does not change results and so does not count when two runs are compared."""
    return field(default=default, metadata={"changes_results": False})


def number(default: Any, low: Any = None, high: Any = None, aside: bool = False) -> Any:
    """A number with the least and greatest value allowed."""
    return field(default=default, metadata={"low": low, "high": high, "changes_results": not aside})


def section(kind: type) -> Any:
    """A nested group of settings."""
    return field(default_factory=kind)


@dataclass(frozen=True)
class Data:
    """Where the photos and labels are."""

    root: str | None = aside(None)
    """Folder with train.csv and test.csv. Not given: data, or the demo in data/demo where data/train.csv is absent."""
    format: Literal["dacon"] = "dacon"
    """Layout of that folder, see data/README.md."""
    on_bad_photo: Literal["stop", "skip"] = aside("stop")
    """A row or photo that cannot be used: stop with one line, or leave it out. Either way it is in rejected.csv."""


@dataclass(frozen=True)
class View:
    """The form in which photos are cached and seen by the network."""

    size: int = number(128, low=16, high=4096)
    """Side of the square photo in pixels."""
    color: Literal["rgb", "gray"] = "rgb"
    """Three channels or one."""
    fit: Literal["squash", "pad", "crop"] = "squash"
    """How a photo becomes square: aspect ratio given up, black borders, or the centre."""


@dataclass(frozen=True)
class Vocabulary:
    """Which words the captioner knows."""

    minimum_count: int = number(3, low=1)
    """A word seen fewer times in the training captions becomes <unk>."""
    maximum_size: int | None = number(None, low=1)
    """Keep only that many most frequent words."""
    maximum_words: int = number(40, low=1)
    """Longer training captions are cut after that many words."""


@dataclass(frozen=True)
class Split:
    """Folds for validation."""

    folds: int = number(3, low=2)
    """Number of folds; each is validated once by a model trained on the others."""
    seed: int = number(0, low=0)
    """Seed of the assignment, apart from run.seed, so that runs with other seeds share folds."""
    holdout: float | None = number(None, low=0.001, high=0.9)
    """Share of photos of one single validation part, for example 0.1, instead of folds."""
    duplicate_distance: int = number(6, low=-1, high=7)
    """Photos whose 64-bit perceptual hashes differ in at most that many bits (0 to 7) share a fold; -1 to not look."""


@dataclass(frozen=True)
class Encoder:
    """The network that sees the photo."""

    name: str = "test_resnet"
    """A timm model by name, or googlenet (torchvision)."""
    pretrained: bool = False
    """Start from the weights of the model hub; needs a network the first time."""
    weights: str | None = None
    """Start from a local weights file (.safetensors, .pt, .pth) instead."""
    frozen: bool = False
    """Keep the encoder as it started; heads alone are trained."""
    output_stride: int | None = number(None, low=2)
    """Pixels per cell of the feature grid, for encoders that can dilate (8, 16, 32)."""


@dataclass(frozen=True)
class Quality:
    """The head that predicts the mean opinion score."""

    dropout: float = number(0.2, low=0, high=0.99)
    """Dropout before the last layer."""


@dataclass(frozen=True)
class Decoder:
    """The captioner."""

    name: Literal["recurrent"] = "recurrent"
    """Kind of decoder."""
    cell: Literal["lstm", "gru"] = "gru"
    """Recurrent cell."""
    embedding: int = number(128, low=1)
    """Width of the word embedding."""
    hidden: int = number(256, low=1)
    """Width of the recurrent state."""
    layers: int = number(1, low=1)
    """Recurrent layers."""
    dropout: float = number(0.3, low=0, high=0.99)
    """Dropout on word embeddings, between layers and before the last layer."""
    image: Literal["first", "every"] = "every"
    """Show the image as the first input only, or with every word."""


@dataclass(frozen=True)
class Decoding:
    """Search for the caption of a photo."""

    beam: int = number(3, low=1)
    """Beam width; 1 is greedy."""
    length_penalty: float = number(0.7, low=0)
    """Candidates are ranked by log probability / length ** length_penalty."""
    minimum_words: int = number(3, low=1)
    """Shortest caption allowed."""
    maximum_words: int = number(30, low=1)
    """Longest caption allowed."""
    no_repeat: int = number(3, low=0)
    """No run of that many words twice in a caption; 0 allows all."""


@dataclass(frozen=True)
class Loss:
    """How the two tasks are weighed."""

    quality: Literal["huber", "squared"] = "huber"
    """Loss of the score, in standard deviations of the training labels."""
    balance: Literal["fixed", "uncertainty"] = "fixed"
    """Fixed weights, or learned ones (Kendall, Gal and Cipolla 2018)."""
    quality_weight: float = number(1.0, low=0)
    """Weight of the score's loss where balance is fixed."""
    caption_weight: float = number(1.0, low=0)
    """Weight of the captions' loss where balance is fixed."""
    label_smoothing: float = number(0.0, low=0, high=0.99)
    """Share of a word's target probability spread over the vocabulary."""


@dataclass(frozen=True)
class Augment:
    """Changes to training photos. The first two leave the quality of a photo alone."""

    flip: float = number(0.5, low=0, high=1)
    """Probability of a horizontal flip."""
    crop: float = number(0.03, low=0, high=0.9)
    """Largest shift as a share of the side: borders are mirrored and the view's size cut out; nothing is resized."""
    photometric: float = number(0.0, low=0, high=1)
    """Probability of other brightness, contrast, blur. CHANGES THE LABEL: people would score that photo otherwise."""


@dataclass(frozen=True)
class Optim:
    """Optimiser and learning rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser."""
    lr: float = number(3e-3, low=0)
    """Peak learning rate, reached after the warm-up."""
    encoder_factor: float = number(1.0, low=0)
    """The encoder's learning rate as a multiple of lr."""
    layer_decay: float = number(1.0, low=0, high=1)
    """Each layer's factor relative to the one above it, from the encoder's last layer down; 1 treats all alike."""
    weight_decay: float = number(0.05, low=0)
    """Weight decay; not on biases and norms."""
    momentum: float = number(0.9, low=0, high=1)
    """Momentum of sgd."""
    schedule: Literal["cosine", "step", "plateau", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_epochs: float = number(1.0, low=0)
    """Epochs of linear warm-up."""
    step_epochs: int = number(5, low=1)
    """step: epochs between two drops. plateau: epochs without a better validation score before a drop."""
    step_factor: float = number(0.3, low=0, high=1)
    """step and plateau: factor of a drop."""
    clip: float = number(1.0, low=0)
    """Largest norm of the gradient; 0 does not clip."""


@dataclass(frozen=True)
class Train:
    """The course of training."""

    fold: int | None = number(None, low=0, aside=True)
    """Train this fold only, as --fold K does; not given: all, one after another."""
    epochs: int = number(16, low=1)
    """Passes over the training photos."""
    batch_size: int = number(32, low=1)
    """Photos per optimiser step, over all GPUs and processes."""
    accumulate: int = number(1, low=1)
    """Micro-batches that a step is divided into, to save memory."""
    captions_per_photo: int = number(1, low=1)
    """Captions of a photo in one step, drawn anew each epoch from those it has."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward; weights stay fp32. fp16 needs a GPU."""
    channels_last: bool = True
    """Memory order of the pixels; faster for convolutions on most machines."""
    compile: bool = False
    """torch.compile: faster after a slow start, and outside the promise of equal bits."""
    ema: float = number(0.98, low=0, high=0.99999)
    """Decay per step of the averaged weights that are validated and kept; 0 uses the weights themselves."""
    patience: int = number(0, low=0)
    """Stop after that many epochs in which neither score improved; 0 never stops early."""
    checkpoint_steps: int = number(200, low=1, aside=True)
    """Write fold-K/last.pt every that many steps, besides at every epoch's end."""
    start_from: str | None = None
    """Start from the weights of that finished run (a name under run.root), fold by fold."""


@dataclass(frozen=True)
class Predict:
    """How the checkpoints become predictions."""

    flips: bool = True
    """Average the score over the photo and its mirror image."""
    mos: Literal["blend", "network", "ridge", "boosting"] = "blend"
    """Member whose MOS is submitted: non-negative blend of all, or one alone. Every member's score is printed."""


@dataclass(frozen=True)
class Weights:
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
class Metric:
    """The score."""

    weights: Weights = section(Weights)
    """Weights of the caption score."""
    bootstrap: int = number(1000, low=100)
    """Resamples behind each 95% interval."""
    spice: bool = False
    """Also compute SPICE; downloads 384 MB the first time and is slow."""


@dataclass(frozen=True)
class Run:
    """Where a run lives and what it may use."""

    name: str | None = aside(None)
    """Folder under run.root; not given: the name of the --config file, or demo."""
    root: str = aside("runs")
    """Folder of all runs and of the cache that they share."""
    seed: int = number(0, low=0)
    """Seed of weights, order, augmentation and dropout."""
    threads: int = number(2, low=1)
    """Threads of torch; another number rounds otherwise."""
    workers: int = number(0, low=0, aside=True)
    """Processes that load training photos; preprocessing uses as many as there are cores."""


@dataclass(frozen=True)
class Settings:
    """All settings."""

    data: Data = section(Data)
    """Where the photos and labels are."""
    view: View = section(View)
    """The form in which photos are cached."""
    vocabulary: Vocabulary = section(Vocabulary)
    """Words of the captioner."""
    split: Split = section(Split)
    """Folds."""
    task: Literal["both", "mos", "caption"] = "both"
    """What is learned and predicted."""
    encoder: Encoder = section(Encoder)
    """The network that sees the photo."""
    quality: Quality = section(Quality)
    """The head of the score."""
    decoder: Decoder = section(Decoder)
    """The captioner."""
    decoding: Decoding = section(Decoding)
    """Search for captions."""
    loss: Loss = section(Loss)
    """Weights of the tasks."""
    augment: Augment = section(Augment)
    """Changes to training photos."""
    optim: Optim = section(Optim)
    """Optimiser and learning rate."""
    train: Train = section(Train)
    """The course of training."""
    predict: Predict = section(Predict)
    """From checkpoints to predictions."""
    parallel: Literal["none", "dp", "ddp"] = aside("none")
    """dp: nn.DataParallel over the GPUs there are. ddp: one process per GPU, started by torchrun."""
    metric: Metric = section(Metric)
    """The score."""
    run: Run = section(Run)
    """Where a run lives."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.encoder.pretrained and self.encoder.weights:
            raise ValueError("encoder.pretrained and encoder.weights exclude each other; keep one")
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.batch_size={self.train.batch_size} cannot be divided into "
                f"train.accumulate={self.train.accumulate} equal parts"
            )
        if self.decoding.minimum_words > self.decoding.maximum_words:
            raise ValueError("decoding.minimum_words is greater than decoding.maximum_words")
        fold_count = 1 if self.split.holdout else self.split.folds
        if self.train.fold is not None and self.train.fold >= fold_count:
            raise ValueError(f"--fold {self.train.fold}: there are folds 0 to {fold_count - 1} (split.folds)")
        if self.run.name is not None and (not self.run.name.strip(". ") or set(self.run.name) & set("/\\\0")):
            raise ValueError(f"run.name={self.run.name!r}: expected the plain name of a folder")
        if self.run.name in ("cache", "log", "submission"):
            raise ValueError(f"run.name={self.run.name}: that name is taken by the pipeline's own files")
