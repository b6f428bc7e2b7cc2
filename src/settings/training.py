"""Settings of losses, augmentation, optimiser and the course of training."""

from dataclasses import dataclass
from typing import Literal

from src.settings.fields import number


@dataclass(frozen=True)
class LossSettings:
    """How the two tasks are weighed."""

    mos: Literal["huber", "mse", "distribution", "none"] = "mse"
    """Loss of each photo's score, in standard deviations of the training labels. distribution: the network predicts
    the shares of the whole scores, and the loss is the earth mover's distance (NIMA)."""
    plcc: float = number(0.0, low=0)
    """Weight of 1 - PLCC of the whole batch, beside loss.mos, whose weight is 1."""
    rank: float = number(0.0, low=0)
    """Weight of the logistic loss of every pair's order in the batch."""
    srcc: float = number(0.0, low=0)
    """Weight of 1 - SRCC of the whole batch, by soft ranks."""
    balance: Literal["fixed", "uncertainty"] = "fixed"
    """Fixed weights, or learned ones (Kendall, Gal and Cipolla 2018)."""
    mos_weight: float = number(1.0, low=0)
    """Weight of the score's loss where balance is fixed."""
    caption_weight: float = number(1.0, low=0)
    """Weight of the captions' loss where balance is fixed."""
    label_smoothing: float = number(0.0, low=0, high=0.99)
    """Share of a word's target probability spread over the vocabulary."""
    length_weight: float = number(0.1, low=0)
    """mask_predict, ctc_mask_predict: weight of the loss of the caption's length."""
    attention_weight: float = number(0.0, low=0)
    """Weight of the doubly stochastic term: attention that looks at every cell alike over a whole caption."""

    @property
    def compares(self) -> bool:
        """Whether some loss compares the photos of a batch with each other."""
        return bool(self.plcc or self.rank or self.srcc)


@dataclass(frozen=True)
class AugmentSettings:
    """Changes to training photos. The first two leave the quality of a photo alone."""

    flip: float = number(0.5, low=0, high=1)
    """Probability of a horizontal flip."""
    crop: float = number(0.03, low=0, high=0.9)
    """Largest shift as a share of the side: borders are mirrored and the view's size cut out; nothing is resized."""
    photometric: float = number(0.0, low=0, high=1)
    """Probability of other brightness, contrast, blur. CHANGES THE LABEL: people would score that photo otherwise."""


@dataclass(frozen=True)
class OptimSettings:
    """Optimiser and learning rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser."""
    lr: float = number(3e-3, low=0)
    """Peak learning rate, reached after the warm-up."""
    encoder_lr_mult: float = number(1.0, low=0)
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
    grad_clip_norm: float = number(1.0, low=0)
    """Largest norm of the gradient; 0 does not clip."""


@dataclass(frozen=True)
class ScheduledSamplingSettings:
    """Feeding the captioner its own words in training, with a probability that grows."""

    probability: float = number(0.0, low=0, high=1)
    """Greatest probability of a word being replaced; 0 is plain teacher forcing."""
    increase: float = number(0.05, low=0, high=1)
    """By how much it grows at a time."""
    every_epochs: int = number(5, low=1)
    """Epochs between two increases."""
    from_epoch: int = number(0, low=0)
    """Epochs of plain teacher forcing before the first."""


@dataclass(frozen=True)
class SelfCriticalSettings:
    """Training the captioner for the score of what it writes, after so many epochs of ordinary training."""

    from_epoch: int | None = number(None, low=0)
    """Epochs of ordinary training before it; 0 starts with it (see train.start_from), not given: never."""
    baseline: Literal["greedy", "leave_one_out"] = "greedy"
    """What a sample's reward is compared with: the greedy caption's, or the mean of the photo's other samples."""
    samples: int = number(1, low=1)
    """Random captions per photo and step; at least 2 for baseline=leave_one_out."""
    temperature: float = number(1.0, low=0.01, high=100)
    """Log probabilities are divided by it when samples are drawn."""
    lr: float = number(1e-4, low=0)
    """Learning rate, constant."""
    cider_d: float = number(1.0, low=0)
    """Weight of CIDEr-D in the reward. The competition's formula is cider_d=4 meteor=3 bleu3=1 bleu4=1 rouge_l=1."""
    bleu3: float = number(0.0, low=0)
    """Weight of BLEU-3."""
    bleu4: float = number(0.0, low=0)
    """Weight of BLEU-4."""
    rouge_l: float = number(0.0, low=0)
    """Weight of ROUGE-L."""
    meteor: float = number(0.0, low=0)
    """Weight of METEOR, by a stand-in that knows words and stems, not synonyms."""
    length_penalty: float = number(0.0, low=0)
    """Taken from the reward for each word by which a caption differs from its references' mean length."""


@dataclass(frozen=True)
class TrainSettings:
    """The course of training."""

    fold: int | None = number(None, low=0, runtime_only=True)
    """Train this fold only, as --fold K does; not given: all, one after another."""
    epochs: int = number(13, low=1)
    """Passes over the training photos."""
    batch_size: int = number(32, low=1)
    """Photos per optimiser step, over all GPUs and processes."""
    accumulation_steps: int = number(1, low=1)
    """Micro-batches that a step is divided into, to save memory."""
    captions_per_photo: int = number(1, low=1)
    """Captions of a photo in one step, drawn anew each epoch from those it has."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward; weights stay fp32. fp16 needs a GPU."""
    channels_last: bool = True
    """Memory order of the pixels; faster for convolutions on most machines."""
    compile: bool = False
    """torch.compile: faster after a slow start, and outside the promise of equal bits."""
    sync_batchnorm: bool = False
    """BatchNorm over the whole batch of all processes, not each process's part of it. Needs GPUs and torchrun."""
    ema_decay: float = number(0.98, low=0, high=0.99999)
    """Decay per step of the averaged weights that are validated and kept; 0 uses the weights themselves."""
    patience: int = number(0, low=0)
    """Stop after that many epochs in which neither score improved, not before self_critical.from_epoch; 0 never."""
    checkpoint_steps: int = number(200, low=1, runtime_only=True)
    """Write fold-K/last.pt every that many steps, besides at every epoch's end."""
    log_batches: int = number(0, low=0, runtime_only=True)
    """Print a line with the loss every that many batches; 0 prints one line an epoch."""
    start_from: str | None = None
    """Start from the weights of that finished run (a name under run.root), fold by fold."""
