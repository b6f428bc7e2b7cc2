"""Settings of the networks, of the search for captions, and of how both become predictions."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from src.settings.fields import STRICT, NonNegativeFloat, NonNegativeInt, Place, PositiveInt, ShareBelowOne, Width

NON_AUTOREGRESSIVE = ("mask_predict", "ctc_mask_predict")
"""The decoders that predict all words of a caption in parallel."""
NON_AUTOREGRESSIVE_WORDS = 100
"""The longest caption that they can write, in words."""
LARGE = ("blip", "blip2", "git", "vit_gpt2")
"""The decoders that are a published captioner's, of transformers, with its own tokens and vision tower."""
OWN_TOWER = "captioner"
"""encoder.name: the vision tower of the captioner itself."""


@dataclass(frozen=True, config=STRICT)
class EncoderSettings:
    """The network that sees the photo."""

    name: str = "tf_efficientnet_lite2"
    """Name of a timm model, or of torchvision's googlenet, or of its detectors fasterrcnn_resnet50_fpn and
    fasterrcnn_mobilenet_v3_large_320_fpn. captioner: the vision tower of decoder.name=blip and its like."""
    pretrained: bool = True
    """Start from published weights: of an installed package (tf_efficientnet_lite0, 1, 2), else of the model hub, which
    are downloaded the first time. false: from scratch."""
    weights: Place | None = None
    """Start from a local file that safetensors or torch.save wrote instead, whatever is around its tensors."""
    frozen: bool = True
    """Keep the encoder's initial weights; only the heads are trained."""
    lora_rank: Annotated[int, Field(ge=0, le=1024)] = 0
    """Train low-rank adapters (LoRA) of that rank beside the linear layers of a ViT, Swin or ConvNeXt, whose published
    weights stay as they are, with encoder.frozen=false; a fold's files hold the adapters alone. 0: none."""
    output_stride: Annotated[int, Field(ge=2)] | None = None
    """Pixels per cell of the feature grid, for encoders that support dilation (8, 16, 32)."""
    frozen_epochs: NonNegativeInt = 0
    """Train only the heads for that many epochs, then the encoder as well."""
    cache: Literal["none", "fp16", "fp32"] = "fp16"
    """Precision of a frozen encoder's features, which are computed once and kept in runs/cache; none: they are computed
    in every step, as those of an encoder that is trained."""
    long_side: Annotated[int, Field(ge=16, le=8192)] | None = 512
    """Cached features come from the photo at its own size and aspect ratio, reduced where its long side has more pixels
    than that; the grid is averaged to that of view.size. Not given: they come from the view, as without a cache."""
    mirrored: bool = False
    """Cached features of the mirrored photo as well: for augment.flip and predict.tta_flips."""
    levels: bool = True
    """Cached features hold the mean and standard deviation of every block's output, which MOS is predicted from (MLSP:
    Hosu et al. 2019), and for the regressors the maxima inside blocks that are wider there. false: MOS is predicted
    from the pooled output alone, as without a cache."""
    more_levels: list[str] = Field(default_factory=lambda: ["tf_efficientnet_lite0"])
    """With levels: further timm models, started like the encoder, whose levels MOS is predicted from as well."""
    fine_tuned: str | None = None
    """With cached features: a further timm model, started like the encoder, for MOS alone. The output of its first
    stages is cached, and what follows them is trained. Not given: none."""
    frozen_stages: Annotated[int, Field(ge=1, le=1000)] = 5
    """fine_tuned: stages that keep their initial weights."""
    fine_tuned_size: Annotated[int, Field(ge=16, le=4096)] = 256
    """fine_tuned: side, in pixels, of the square that it sees of a photo."""
    regions: Annotated[int, Field(ge=1, le=1000)] = 36
    """Regions per photo at most, for the encoders that detect regions (fasterrcnn_*)."""

    def __post_init__(self) -> None:
        if self.lora_rank and (self.frozen or not (self.pretrained or self.weights)):
            raise ValueError(
                f"encoder.lora_rank={self.lora_rank} trains adapters beside published weights: give "
                "encoder.frozen=false and encoder.pretrained=true or encoder.weights=FILE"
            )
        if self.frozen and self.frozen_epochs:
            raise ValueError("encoder.frozen keeps the encoder frozen in all epochs; leave out encoder.frozen_epochs")
        if self.whole_photos and self.name.startswith("fasterrcnn_"):
            raise ValueError(f"encoder.name={self.name} detects in the square view; give encoder.long_side=null")
        if self.own_tower and (self.weights or self.output_stride or self.fine_tuned):
            raise ValueError(
                f"encoder.name={self.name} is a part of decoder.weights as it is; leave out encoder.weights, "
                "encoder.output_stride and encoder.fine_tuned"
            )

    @property
    def own_tower(self) -> bool:
        """Whether it is the vision tower of a published captioner, whose photos have one size."""
        return self.name == OWN_TOWER

    @property
    def cached(self) -> bool:
        """Whether features are computed once: those of an encoder that is trained would change."""
        return self.frozen and self.cache != "none"

    @property
    def levels_of_others(self) -> list[str]:
        """The further models whose levels are cached."""
        return self.more_levels if self.cached and self.levels and not self.own_tower else []

    @property
    def fine_tunes(self) -> bool:
        """Whether late stages are trained on a cached stage."""
        return self.cached and self.fine_tuned is not None

    @property
    def others(self) -> list[str]:
        """All models beside the encoder that cached features come from."""
        return [*self.levels_of_others, *([self.fine_tuned] if self.fine_tunes and self.fine_tuned else [])]

    @property
    def whole_photos(self) -> int | None:
        """Longest side, in pixels, of the photos at their own aspect ratio that features are computed from; None: they
        are computed from the square view."""
        return self.long_side if self.cached and not self.own_tower else None

    @property
    def cached_views(self) -> int:
        """How many sets of cached features a photo has: as it is, and mirrored."""
        return 1 + self.mirrored


@dataclass(frozen=True, config=STRICT)
class MosHeadSettings:
    """The head that predicts the mean opinion score."""

    dropout: ShareBelowOne = 0.5
    """Dropout before each layer."""
    hidden: Annotated[int, Field(ge=0, le=65536)] = 256
    """Width of a hidden layer; 0: none."""


@dataclass(frozen=True, config=STRICT)
class DecoderSettings:
    """The captioner."""

    name: Literal[
        "recurrent",
        "attention",
        "updown",
        "transformer",
        "mask_predict",
        "ctc_mask_predict",
        "blip",
        "blip2",
        "git",
        "vit_gpt2",
    ] = "transformer"
    """recurrent: an RNN on pooled features. attention, updown: one or two RNNs with attention over the grid.
    transformer: a causal Transformer over the grid. mask_predict, ctc_mask_predict: Transformers that predict all words
    in parallel and refine them in passes, the second trained by CTC. blip, blip2, git, vit_gpt2: published captioners
    of transformers (requirements-large.txt), with encoder.name=captioner; layers and widths are their own, and so are
    their tokens, which decoding.* and vocabulary.maximum_words count in place of words."""
    weights: Place | None = None
    """blip, blip2, git, vit_gpt2: the model's name on the hub, such as Salesforce/blip-image-captioning-base, or a
    folder that save_pretrained wrote; only safetensors are read. With encoder.pretrained=false only its shape counts.
    """
    lora_rank: Annotated[int, Field(ge=0, le=1024)] = 0
    """blip, blip2, git, vit_gpt2: train low-rank adapters (LoRA) of that rank beside the linear layers of the text
    part, whose published weights stay as they are; a fold's files hold the adapters alone. 0: all of it is trained."""
    cell: Literal["lstm", "gru"] = "gru"
    """Recurrent cell (recurrent, attention; updown is two LSTMs)."""
    embedding: Width = 256
    """Width of the word embedding (the Transformers use hidden)."""
    hidden: Width = 256
    """Width of the recurrent state, or of the Transformers."""
    layers: Annotated[int, Field(ge=1, le=100)] = 1
    """Layers (recurrent and the Transformers)."""
    dropout: ShareBelowOne = 0.2
    """Dropout on word embeddings, between layers and before the last layer."""
    image: Literal["first", "every"] = "every"
    """recurrent: show the image as the first input only, or with every word."""
    project: Width | None = 256
    """attention, updown: width to which each cell of the grid is projected; not given: no projection."""
    attention: Width = 128
    """attention, updown: width of the layer of additive attention."""
    gate: bool = True
    """attention: scale the attended features by a gate computed from the state (beta of Show, Attend and Tell)."""
    heads: Annotated[int, Field(ge=1, le=100)] = 4
    """Transformers: attention heads."""
    feedforward: Width = 1024
    """Transformers: width of the feed-forward layers."""
    length: Literal["regression", "classification"] = "regression"
    """mask_predict, ctc_mask_predict: the caption's length is predicted by regression or by classification."""
    upsample: Annotated[int, Field(ge=2, le=8)] = 2
    """ctc_mask_predict: positions of the alignment per predicted word."""
    distill_from: str | None = None
    """Train on the captions that this finished run (a name under run.root) writes for the training photos
    (sequence-level knowledge distillation)."""


@dataclass(frozen=True, config=STRICT)
class DecodingSettings:
    """Search for the caption of a photo."""

    search: Literal["beam", "diverse", "sample"] = "beam"
    """Beam search, diverse beam search, or the most probable of several random captions."""
    beam: PositiveInt = 5
    """Beam width; 1 is greedy."""
    length_penalty: NonNegativeFloat = 0.7
    """Candidates are ranked by log probability / length ** length_penalty."""
    minimum_words: PositiveInt = 3
    """Shortest caption allowed."""
    maximum_words: PositiveInt = 30
    """Longest caption allowed."""
    no_repeat_ngram_size: NonNegativeInt = 3
    """No sequence of that many words occurs twice in a caption; 0 allows all."""
    bad_endings: str = "a an and the of with in on to is"
    """Words, separated by spaces, that may not be a caption's last."""
    beam_groups: PositiveInt = 3
    """diverse: groups into which the beam is divided."""
    diversity: NonNegativeFloat = 0.5
    """diverse: penalty of a word for each caption of an earlier group with the same word at the same position."""
    samples: PositiveInt = 5
    """sample: random captions per photo."""
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """sample: log probabilities are divided by it."""
    top_k: NonNegativeInt = 0
    """sample: draw from that many most probable words; 0 draws from all."""
    top_p: Annotated[float, Field(ge=0.01, le=1)] = 1.0
    """sample: draw from the smallest set of words with that share of the probability (nucleus sampling)."""
    passes: Annotated[int, Field(ge=1, le=100)] = 4
    """mask_predict, ctc_mask_predict: decoding passes; 1 predicts the caption in a single pass."""
    repredict: Literal["least_confident", "all"] = "least_confident"
    """mask_predict, ctc_mask_predict: what later passes predict anew: the positions that they mask, or all."""
    length_beam: Annotated[int, Field(ge=1, le=100)] = 1
    """mask_predict, ctc_mask_predict: how many of the most probable lengths are decoded, each as a candidate."""
    ctc: Literal["greedy", "prefix"] = "greedy"
    """ctc_mask_predict: the caption of the most probable alignment, or the best by prefix beam search (width: beam)."""
    model_averaging: Literal["none", "probabilities", "log_probabilities"] = "none"
    """Captions of test photos: by the fold that scored best, or with the mean of all folds' probabilities or log
    probabilities at each word."""

    def __post_init__(self) -> None:
        if self.minimum_words > self.maximum_words:
            raise ValueError("decoding.minimum_words is greater than decoding.maximum_words")
        beam, groups = self.beam, self.beam_groups
        if self.search == "diverse" and beam % groups:
            divided = f"decoding.beam={beam} cannot be divided into decoding.beam_groups={groups} equal groups"
            raise ValueError(f"decoding.search=diverse: {divided}; give decoding.beam={beam + groups - beam % groups}")


@dataclass(frozen=True, config=STRICT)
class PredictSettings:
    """How the checkpoints become predictions."""

    tta_flips: bool = True
    """Average the MOS over the photo and its mirror image; with cached features encoder.mirrored as well."""
    tta_scales: list[float] = Field(default_factory=lambda: [1.0])
    """Average the MOS over the photo at each of these scales, 0.5 to 2 times view.size."""
    candidates: bool = True
    """Also write each fold's caption candidates (greedy, beam, diverse beam, random samples) and, where features are
    not cached, those of all photos, which ensemble.captions=mbr works with."""
    samples: Annotated[int, Field(ge=1, le=1000)] = 20
    """Random captions among the candidates."""

    def __post_init__(self) -> None:
        scales = self.tta_scales
        if not scales or len(set(scales)) < len(scales) or not all(0.5 <= scale <= 2 for scale in scales):
            raise ValueError(f"predict.tta_scales={scales}: expected a list of different numbers from 0.5 to 2")
