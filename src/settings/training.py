"""Settings of losses, augmentation, optimiser and the course of training."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from src.settings.fields import STRICT, NonNegativeFloat, NonNegativeInt, PositiveInt, RuntimeOnly, Share, ShareBelowOne


@dataclass(frozen=True, config=STRICT)
class LossSettings:
    """Losses of the two tasks, and their weights."""

    mos: Literal["huber", "mse", "distribution", "none"] = "mse"
    """Loss of each photo's MOS, in standard deviations of the training labels. distribution: the network predicts the
    probabilities of the integer scores, and the loss is the earth mover's distance (NIMA). none: see the next three."""
    plcc: NonNegativeFloat = 0.5
    """Weight of 1 - PLCC of the whole batch, beside loss.mos, whose weight is 1."""
    rank: NonNegativeFloat = 0.0
    """Weight of the logistic ranking loss over all pairs of the batch."""
    srcc: NonNegativeFloat = 0.0
    """Weight of 1 - SRCC of the whole batch, by soft ranks."""
    balance: Literal["fixed", "uncertainty"] = "fixed"
    """Fixed weights, or learned ones (Kendall, Gal and Cipolla 2018)."""
    mos_weight: NonNegativeFloat = 1.0
    """Weight of the MOS's loss where balance is fixed."""
    caption_weight: NonNegativeFloat = 1.0
    """Weight of the captions' loss where balance is fixed."""
    label_smoothing: ShareBelowOne = 0.1
    """Share of a word's target probability spread over the vocabulary. CTC has no one target at a place, and none."""
    length_weight: NonNegativeFloat = 0.1
    """mask_predict, ctc_mask_predict: weight of the loss of the caption's length."""
    attention_weight: NonNegativeFloat = 0.0
    """Weight of the doubly stochastic term (Xu et al. 2015): attention covers all cells evenly over a whole caption."""

    @property
    def compares(self) -> bool:
        """Whether a loss compares the photos of a batch with each other."""
        return bool(self.plcc or self.rank or self.srcc)


@dataclass(frozen=True, config=STRICT)
class AugmentSettings:
    """Random changes to training photos. flip and crop leave their quality as it is."""

    flip: Share = 0.0
    """Probability of a horizontal flip; with cached features encoder.mirrored as well."""
    crop: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Largest shift as a share of the side: borders are mirrored and the view's size cut out; nothing is resized."""
    photometric: Share = 0.0
    """Probability of a change of brightness, contrast or blur. CHANGES THE LABEL: people would rate that photo
    differently."""


@dataclass(frozen=True, config=STRICT)
class OptimSettings:
    """Optimiser and learning rate."""

    name: Literal["adamw", "adam", "sgd", "adamw8bit"] = "adamw"
    """Optimiser. adamw8bit: AdamW whose two moments take one byte each (Dettmers et al. 2022; bitsandbytes), but for
    tensors of fewer than 4096 values."""
    lr: NonNegativeFloat = 1e-3
    """Peak learning rate, reached after the warm-up."""
    encoder_lr_mult: NonNegativeFloat = 1.0
    """The encoder's learning rate as a multiple of lr."""
    layer_decay: Share = 1.0
    """Each layer's factor relative to the one above it, from the encoder's last layer down; 1 treats all alike."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay; not on biases and norms."""
    momentum: Share = 0.9
    """Momentum of sgd."""
    schedule: Literal["cosine", "step", "plateau", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_epochs: NonNegativeFloat = 1.0
    """Epochs of linear warm-up."""
    step_epochs: PositiveInt = 5
    """step: epochs between two drops. plateau: epochs without a better validation score before a drop."""
    step_factor: Share = 0.3
    """step and plateau: factor of a drop."""
    grad_clip_norm: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 does not clip."""


@dataclass(frozen=True, config=STRICT)
class ScheduledSamplingSettings:
    """Feeding the captioner its own words in training, with growing probability (Bengio et al. 2015)."""

    probability: Share = 0.0
    """Greatest probability of a word being replaced; 0 is plain teacher forcing."""
    increase: Share = 0.05
    """By how much the probability grows at a time."""
    every_epochs: PositiveInt = 5
    """Epochs between two increases."""
    from_epoch: NonNegativeInt = 0
    """Epochs of plain teacher forcing before the first increase."""


@dataclass(frozen=True, config=STRICT)
class SelfCriticalSettings:
    """Training the captioner for the score of its own captions (Rennie et al. 2017), after ordinary training."""

    from_epoch: NonNegativeInt | None = None
    """Epochs of ordinary training before it; 0 starts with it (see train.start_from), not given: never."""
    baseline: Literal["greedy", "leave_one_out"] = "greedy"
    """What a sample's reward is compared with: the greedy caption's, or the mean of the photo's other samples."""
    samples: PositiveInt = 1
    """Random captions per photo and step; at least 2 for baseline=leave_one_out."""
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Log probabilities are divided by it when samples are drawn."""
    lr: NonNegativeFloat = 1e-4
    """Learning rate, constant."""
    cider_d: NonNegativeFloat = 1.0
    """Weight of CIDEr-D in the reward. The competition's formula is cider_d=4 meteor=3 bleu3=1 bleu4=1 rouge_l=1."""
    bleu3: NonNegativeFloat = 0.0
    """Weight of BLEU-3."""
    bleu4: NonNegativeFloat = 0.0
    """Weight of BLEU-4."""
    rouge_l: NonNegativeFloat = 0.0
    """Weight of ROUGE-L."""
    meteor: NonNegativeFloat = 0.0
    """Weight of METEOR, approximated by words and stems, without synonyms."""
    length_penalty: NonNegativeFloat = 0.0
    """Taken from the reward for each word by which a caption differs from its references' mean length."""

    def __post_init__(self) -> None:
        if self.from_epoch is None:
            return
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise ValueError("self_critical.baseline=leave_one_out needs self_critical.samples of at least 2")
        if not self.cider_d + self.bleu3 + self.bleu4 + self.rouge_l + self.meteor:
            raise ValueError("self_critical: cider_d, bleu3, bleu4, rouge_l and meteor are all 0: there is no reward")


@dataclass(frozen=True, config=STRICT)
class TrainSettings:
    """The course of training."""

    fold: RuntimeOnly[NonNegativeInt | None] = None
    """Train this fold only, as --fold K does; not given: all, one after another."""
    epochs: PositiveInt = 12
    """Passes over the training photos."""
    batch_size: PositiveInt = 32
    """Photos per optimiser step, over all GPUs and processes."""
    accumulation_steps: PositiveInt | Literal["auto"] = 1
    """Micro-batches that a step is divided into, to save memory; BatchNorm in training sees one at a time. auto: as few
    as the GPU's memory allows, found by doubling them where it is full; bits then depend on that memory."""
    captions_per_photo: PositiveInt = 5
    """Captions of a photo in one step, drawn anew each epoch from those it has."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward; weights stay fp32. fp16 needs a GPU; bf16 also speeds up CPUs with
    instructions for it (AVX512-BF16, AMX), and slows down others."""
    gradient_checkpointing: bool = False
    """Compute activations inside the blocks of the encoder and of a published captioner again in the backward pass:
    slower, in a fraction of the memory."""
    channels_last: bool = True
    """Memory format of the pixels; convolutions are faster with it on most machines."""
    compile: bool = False
    """torch.compile: faster after a slow start; results are then not promised to be bit-identical."""
    sync_batchnorm: bool = False
    """BatchNorm over the batch of all processes, not each process's part of it. Needs GPUs and torchrun."""
    ema_decay: Annotated[float, Field(ge=0, le=0.99999)] = 0.98
    """Decay per step of the averaged weights that are validated and kept; 0 uses the weights themselves."""
    patience: NonNegativeInt = 0
    """Stop after that many epochs in which neither score improved, not before self_critical.from_epoch; 0 never."""
    validation_photos: PositiveInt = 5000
    """Photos of the left-out fold that each epoch is validated on at most; predict takes all of them."""
    checkpoint_steps: RuntimeOnly[PositiveInt] = 200
    """Write a checkpoint (last.pt) every that many steps, besides at the end of an epoch where it is 20 s old."""
    log_batches: RuntimeOnly[NonNegativeInt] = 0
    """Print a line with the loss every that many batches; 0 prints one line per epoch."""
    start_from: str | None = None
    """Start from the weights of that finished run (a name under run.root), fold by fold."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches that a step is divided into, or tried with first."""
        return 1 if self.accumulation_steps == "auto" else self.accumulation_steps

    def __post_init__(self) -> None:
        if self.sync_batchnorm and self.accumulation_steps == "auto":
            raise ValueError(
                "train.sync_batchnorm ties the processes within a pass; give train.accumulation_steps a number"
            )
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"train.batch_size={self.batch_size} cannot be divided into "
                f"train.accumulation_steps={self.accumulation_steps} equal parts"
            )
