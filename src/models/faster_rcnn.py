"""Regions of a photo, found and described by torchvision's Faster R-CNN (Ren et al. 2015)."""

import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from src.base.errors import InputError
from src.models.encoder import Encoder, trainable
from src.models.features import Features
from src.models.weights import fit_weights
from src.settings.schema import EncoderSettings

# Proposals per photo that are classified: as many as Anderson et al. take, and as torchvision's small detector takes.
DETECTORS = {"fasterrcnn_resnet50_fpn": 300, "fasterrcnn_mobilenet_v3_large_320_fpn": 150}
_OVERLAP = 0.3  # intersection over union from which on the less sure of two boxes of a class goes; Anderson et al.'s
_STRIDE = 32  # photos are padded to its multiples, as the scale of the feature maps is read from their sizes
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FasterRcnnEncoder(Encoder):
    """Features of the regions that a detector finds, as in "Bottom-Up and Top-Down Attention" (Anderson et al. 2018).

    As in the authors' program a region is a box of the region proposal network, without the classifier's correction,
    so that it is the very box its features were cut from. Boxes are suppressed class by class, and the `regions` with
    the highest probability of a class in which they survived are kept, in that order. Their features are the output
    of the detector's box head (the authors': mean-pooled convolutional features). Photos are seen at their own size.

    The choice of regions has no gradient: proposal network and classifier stay as they started, while feature maps
    and box head learn through the features. Norms keep the statistics of given weights, as torchvision has it; those
    of random weights start from random photos and learn.

    `layout` is (1, `regions`), as regions form no grid; `removed` is empty. `detects`
    tells, with the weights and in every checkpoint, whether weights were given. Regions of nearly equal probability
    may change places where sums are rounded otherwise: in a batch of another size, on another machine.
    """

    def __init__(
        self,
        detector: FasterRCNN,
        name: str,
        regions: int,
        size: int,
        detects: bool,
        frozen: bool = False,
        channels_last: bool = False,
    ):
        super().__init__(3, _MEAN, _STD, channels_last)
        self.detector = detector
        self.name = name
        self.regions = regions
        self.layout = (1, regions)
        self.register_buffer("detects", torch.tensor(detects))
        if not detects:
            _settle_norms(detector)
        self._probe(size)
        if detects:
            for norm in _norms(detector):
                norm.requires_grad_(False)
        self.detector.to(memory_format=self.memory_format)
        self.set_trainable(detector, frozen)

    @property
    def region_kind(self) -> str:
        """What its regions are to be called."""
        return "detected regions" if self.detects else "random regions"

    @property
    def warning(self) -> str:
        """One plain sentence where no weights were given, else ""."""
        return "" if self.detects else f"encoder.name={self.name}: no weights were given, so these are random regions"

    def forward(self, pixels: torch.Tensor) -> Features:
        """Features of the regions of uint8 pixels [B, H, W, 3] (or float on the scale 0 to 255).

        grid [B, regions, D], the surest region first, and mask [B, regions] False behind the last; layout float32
        [B, regions, 4], the boxes (x1, y1, x2, y2) as parts of width and height; both are 0 behind the last. pooled:
        the mean over the regions. A photo without candidates is one region as a whole. Float32 also under autocast.
        """
        learns = torch.is_grad_enabled() and not self.frozen
        with torch.autocast(pixels.device.type, enabled=False), torch.set_grad_enabled(learns):
            images = self.normalised(pixels)
            height, width = images.shape[2:]
            images = nn.functional.pad(images, (0, -width % _STRIDE, 0, -height % _STRIDE))
            images = ImageList(images.contiguous(memory_format=self.memory_format), [(height, width)] * len(images))
            maps = self.detector.backbone(images.tensors)
            with torch.no_grad():
                boxes, features = self._select(maps, images)
            if learns:  # once more, for a gradient through these few
                features = self._describe(maps, boxes, images)
            return self._fill(features, boxes, (height, width))

    def train(self, mode: bool = True) -> "FasterRcnnEncoder":
        """Proposals are made as in evaluation, and norms of given weights keep their statistics."""
        super().train(mode)
        self.detector.rpn.eval()
        if self.frozen:
            self.detector.eval()
        elif self.detects:
            for norm in _norms(self.detector):
                norm.eval()
        return self

    def layers(self) -> list[list[nn.Parameter]]:
        """The trainable parameters, layer by layer from the input on, for learning rates that fall by layer."""
        maps, head = self.detector.backbone, self.detector.roi_heads.box_head
        groups = [list(module.parameters()) for module in (*maps.body.children(), maps.fpn, head)]
        return trainable(groups)

    def _select(self, maps: dict[str, torch.Tensor], images: ImageList) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The boxes of each photo in pixels, at most `regions`, the surest first, and the features of all of them."""
        candidates, _ = self.detector.rpn(images, maps)
        height, width = images.image_sizes[0]
        whole = images.tensors.new_tensor([[0, 0, width, height]])
        candidates = [boxes if len(boxes) else whole for boxes in candidates]
        features = self._describe(maps, candidates, images)
        logits, _ = self.detector.roi_heads.box_predictor(features)
        scores = logits.softmax(1)[:, 1:]  # class 0 is the background
        counts = [len(boxes) for boxes in candidates]
        kept = [select_regions(*own, self.regions) for own in zip(candidates, scores.split(counts), strict=True)]
        boxes = [own[rows] for own, rows in zip(candidates, kept, strict=True)]
        return boxes, torch.cat([own[rows] for own, rows in zip(features.split(counts), kept, strict=True)])

    def _describe(self, maps: dict[str, torch.Tensor], boxes: list[torch.Tensor], images: ImageList) -> torch.Tensor:
        """Features [all boxes, D] of boxes in pixels, photo after photo."""
        heads, padded = self.detector.roi_heads, tuple(images.tensors.shape[2:])
        return heads.box_head(heads.box_roi_pool(maps, boxes, [padded] * len(boxes)))

    def _fill(self, features: torch.Tensor, boxes: list[torch.Tensor], size: tuple[int, int]) -> Features:
        counts = torch.tensor([[len(own)] for own in boxes], device=features.device)
        mask = torch.arange(self.regions, device=features.device) < counts
        grid, layout = features.new_zeros(*mask.shape, features.shape[1]), features.new_zeros(*mask.shape, 4)
        grid[mask] = features
        layout[mask] = torch.cat(boxes) / features.new_tensor([size[1], size[0]] * 2)
        return Features(grid, mask, layout, grid.sum(1) / counts)

    def _probe(self, size: int) -> None:
        """Look at one empty photo: the width, the maps that regions are cut from, and what no feature depends on."""
        self.detector.eval()
        side = size + -size % _STRIDE
        images = ImageList(torch.zeros(1, 3, side, side), [(size, size)])
        whole = [torch.tensor([[0.0, 0.0, size, size]])]
        pool = self.detector.roi_heads.box_roi_pool
        maps = self.detector.backbone(images.tensors)
        self._describe(maps, whole, images)  # the pooling reads the scales of the maps
        # the coarser maps are for regions greater than the photo: their layers would be trained by weight decay alone
        pool.featmap_names = pool.featmap_names[: int(pool.map_levels(whole)) + 1]
        pool.scales = pool.map_levels = None
        features = self._describe(maps, whole, images)
        self.width = features.shape[1]
        parameters = list(self.detector.parameters())
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)


def select_regions(boxes: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` surest of the boxes [N, 4] that survive suppression, or of fewer, the surest first.

    scores [N, classes]. In each class a box goes where a surer one overlaps it; what counts is a box's highest score
    in a class where it stays. Boxes of equal score keep their order.
    """
    ranked, pairs = scores.flatten().sort(descending=True, stable=True)
    owners, classes = pairs // scores.shape[1], pairs % scores.shape[1]
    last = len(pairs)
    for seen in (16 * count, last):  # the first few pairs are mostly enough, and what follows suppresses none of them
        kept = batched_nms(boxes[owners[:seen]], ranked[:seen], classes[:seen], _OVERLAP)
        ranks = torch.full_like(pairs, last)
        ranks[pairs[kept]] = kept
        best = ranks.view_as(scores).amin(1)
        survivors = int((best < last).sum())
        if survivors >= count:
            break
    return best.argsort(stable=True)[: min(count, survivors)]


def build_faster_rcnn(
    settings: EncoderSettings,
    channels: int,
    size: int,
    weights: dict[str, torch.Tensor] | None,
    channels_last: bool = False,
) -> FasterRcnnEncoder:
    """The detector of DETECTORS that `settings` name, for square photos of `size` pixels; a random one without weights.

    Its input is normalised with ImageNet's statistics. Raises InputError, in one line, for photos of one channel, a
    stride, and weights that do not fit.
    """
    if channels != 3:
        raise InputError(f"encoder.name={settings.name} sees three channels; give view.color=rgb")
    if settings.output_stride is not None:
        raise InputError(f"encoder.output_stride={settings.output_stride}: a detector cannot dilate; leave it out")
    candidates = max(DETECTORS[settings.name], settings.regions)
    detector = get_model(
        settings.name,
        weights=None,
        weights_backbone=None,
        rpn_pre_nms_top_n_test=candidates,
        rpn_post_nms_top_n_test=candidates,
        rpn_score_thresh=0.0,
    )
    if weights:
        fit_weights(detector, weights, {}, channels, set())
        if settings.name == "fasterrcnn_resnet50_fpn":  # torchvision: its norms were trained without an epsilon
            for norm in _norms(detector):
                norm.running_var -= norm.eps
    return FasterRcnnEncoder(
        detector, settings.name, settings.regions, size, bool(weights), settings.frozen, channels_last
    )


def _norms(detector: FasterRCNN) -> list[nn.BatchNorm2d]:
    return [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def _settle_norms(detector: FasterRCNN) -> None:
    """Give the norms of random weights the statistics of random photos, mosaics of colours.

    Until training taught them, the signal of a MobileNet would die out else, and all regions look alike.
    """
    photos = nn.functional.interpolate(torch.rand(8, 3, 8, 8), (128, 128))
    mean, std = torch.tensor(_MEAN).view(3, 1, 1), torch.tensor(_STD).view(3, 1, 1)
    for norm in _norms(detector):
        norm.momentum = 1.0
    detector.backbone.train()((photos - mean) / std)
    for norm in _norms(detector):
        norm.momentum = 0.1
