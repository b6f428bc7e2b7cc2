"""Features of the regions that torchvision's Faster R-CNN (Ren et al. 2015) detects."""

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
_NMS_THRESHOLD = 0.3  # intersection over union, that of Anderson et al.
_STRIDE = 32  # photos are padded to its multiples: the pooling infers the scale of the feature maps from their sizes
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FasterRcnnEncoder(Encoder):
    """Features of detected regions, as in "Bottom-Up and Top-Down Attention" (Anderson et al. 2018).

    As in the authors' program a region is a proposal of the region proposal network without the classifier's box
    regression, so that it is exactly the box its features were pooled from. Non-maximum suppression runs per class, and
    the `regions` proposals with the highest probability of a class in which they survive are kept, in that order. Their
    features are the output of the detector's box head (the authors': mean-pooled convolutional features). Photos are
    not resized.

    The selection of regions has no gradient: proposal network and classifier are never trained, while feature maps and
    box head are, through the features. Batch norms keep the statistics of pretrained weights, as in torchvision; those
    of random weights start from the statistics of random photos and are trained.

    `layout` is (1, `regions`), as regions form no grid; `removed` is empty. `pretrained` is a buffer, so that
    checkpoints tell whether the training started from weights. The order of regions of nearly equal probability depends
    on rounding: on the batch size and the machine.
    """

    pretrained: torch.Tensor

    def __init__(
        self,
        detector: FasterRCNN,
        name: str,
        regions: int,
        size: int,
        pretrained: bool,
        frozen: bool = False,
        channels_last: bool = False,
    ):
        super().__init__(3, _MEAN, _STD, channels_last)
        self.detector = detector
        self.name = name
        self.regions = regions
        self.layout = (1, regions)
        self.register_buffer("pretrained", torch.tensor(pretrained))
        if not pretrained:
            _calibrate_norms(detector)
        self._probe(size)
        if pretrained:
            for norm in _norms(detector):
                norm.requires_grad_(False)
        self.detector.to(memory_format=self.memory_format)
        self.set_trainable(detector, frozen)

    @property
    def region_kind(self) -> str:
        return "detected regions" if self.pretrained else "random regions"

    @property
    def warning(self) -> str:
        if self.pretrained:
            return ""
        return f"encoder.name={self.name}: no weights were given, so these are random regions"

    def forward(self, pixels: torch.Tensor) -> Features:
        """Features of the regions of uint8 pixels [B, H, W, 3] (or float on the scale 0 to 255).

        grid [B, regions, D], the most probable region first, and mask [B, regions] False behind the last; layout
        float32 [B, regions, 4], the boxes (x1, y1, x2, y2) as fractions of width and height; both are 0 behind the
        last. pooled: the mean over the regions. A photo without proposals is one region as a whole. Float32 also under
        autocast.
        """
        trained = torch.is_grad_enabled() and not self.frozen
        with torch.autocast(pixels.device.type, enabled=False), torch.set_grad_enabled(trained):
            images = self.normalised(pixels)
            height, width = images.shape[2:]
            images = nn.functional.pad(images, (0, -width % _STRIDE, 0, -height % _STRIDE))
            images = images.contiguous(memory_format=self.memory_format)
            batch = ImageList(images, [(height, width)] * len(images))
            maps = self.detector.backbone(batch.tensors)
            with torch.no_grad():
                boxes, features = self._detect(maps, batch)
            if trained:  # once more, so that the gradient flows through the selected boxes only
                features = self._box_features(maps, boxes, batch)
            return self._padded(features, boxes, (height, width))

    def train(self, mode: bool = True) -> "FasterRcnnEncoder":
        """The proposal network, and norms with pretrained statistics, stay in evaluation mode."""
        super().train(mode)
        self.detector.rpn.eval()
        if self.frozen:
            self.detector.eval()
        elif self.pretrained:
            for norm in _norms(self.detector):
                norm.eval()
        return self

    def layers(self) -> list[list[nn.Parameter]]:
        maps, head = self.detector.backbone, self.detector.roi_heads.box_head
        groups = [list(module.parameters()) for module in (*maps.body.children(), maps.fpn, head)]
        return trainable(groups)

    def _detect(self, maps: dict[str, torch.Tensor], images: ImageList) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The selected boxes of each photo in pixels, the most probable first, and the features of all of them."""
        proposals, _ = self.detector.rpn(images, maps)
        height, width = images.image_sizes[0]
        whole = images.tensors.new_tensor([[0, 0, width, height]])
        proposals = [boxes if len(boxes) else whole for boxes in proposals]
        features = self._box_features(maps, proposals, images)
        logits, _ = self.detector.roi_heads.box_predictor(features)
        scores = logits.softmax(1)[:, 1:]  # class 0 is the background
        counts = [len(boxes) for boxes in proposals]
        photos = list(zip(proposals, scores.split(counts), features.split(counts), strict=True))
        selected = [select_regions(boxes, score, self.regions) for boxes, score, _ in photos]
        boxes = [boxes[rows] for (boxes, _, _), rows in zip(photos, selected, strict=True)]
        return boxes, torch.cat([feature[rows] for (_, _, feature), rows in zip(photos, selected, strict=True)])

    def _box_features(
        self, maps: dict[str, torch.Tensor], boxes: list[torch.Tensor], images: ImageList
    ) -> torch.Tensor:
        """Features [all boxes, D] of boxes in pixels, photo by photo."""
        heads, padded = self.detector.roi_heads, tuple(images.tensors.shape[2:])
        return heads.box_head(heads.box_roi_pool(maps, boxes, [padded] * len(boxes)))

    def _padded(self, features: torch.Tensor, boxes: list[torch.Tensor], size: tuple[int, int]) -> Features:
        """Features of all boxes [all boxes, D] as those of photos with `regions` rows each."""
        counts = torch.tensor([[len(each)] for each in boxes], device=features.device)
        mask = torch.arange(self.regions, device=features.device) < counts
        grid, layout = features.new_zeros(*mask.shape, features.shape[1]), features.new_zeros(*mask.shape, 4)
        grid[mask] = features
        layout[mask] = torch.cat(boxes) / features.new_tensor([size[1], size[0]] * 2)
        return Features(grid, mask, layout, grid.sum(1) / counts)

    def _probe(self, size: int) -> None:
        """Run one empty photo to learn the width, which feature maps are used, and what features do not depend on."""
        self.detector.eval()
        side = size + -size % _STRIDE
        images = ImageList(torch.zeros(1, 3, side, side), [(size, size)])
        whole = [torch.tensor([[0.0, 0.0, size, size]])]
        pool = self.detector.roi_heads.box_roi_pool
        maps = self.detector.backbone(images.tensors)
        self._box_features(maps, whole, images)  # the pooling reads the scales of the maps
        # coarser maps are for regions larger than the photo: their layers would be trained by weight decay alone
        pool.featmap_names = pool.featmap_names[: int(pool.map_levels(whole)) + 1]
        pool.scales = pool.map_levels = None
        features = self._box_features(maps, whole, images)
        self.width = features.shape[1]
        parameters = list(self.detector.parameters())
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)


def select_regions(boxes: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` best boxes [N, 4] that survive non-maximum suppression, or of fewer, the best first.

    scores [N, classes]. Suppression runs per class; a box is ranked by its highest score in a class in which it
    survives. Ties keep their order.
    """
    ranked, pairs = scores.flatten().sort(descending=True, stable=True)
    rows, classes = pairs // scores.shape[1], pairs % scores.shape[1]
    last = len(pairs)
    # the highest-scoring pairs of box and class mostly suffice, and lower ones cannot suppress them
    for considered in (16 * count, last):
        kept = batched_nms(boxes[rows[:considered]], ranked[:considered], classes[:considered], _NMS_THRESHOLD)
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
    """The encoder with a detector of DETECTORS, for square photos of `size` pixels; its weights are random by default.

    Its input is normalised by ImageNet's statistics. Raises InputError, in one line, for photos of one channel, an
    output stride, and weights that do not fit.
    """
    if channels != 3:
        raise InputError(f"encoder.name={settings.name} sees three channels; give view.color=rgb")
    if settings.output_stride is not None:
        raise InputError(f"encoder.output_stride={settings.output_stride}: a detector cannot dilate; leave it out")
    proposals = max(DETECTORS[settings.name], settings.regions)
    detector = get_model(
        settings.name,
        weights=None,
        weights_backbone=None,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_test=proposals,
        rpn_score_thresh=0.0,
    )
    if weights:
        fit_weights(detector, weights, {}, channels, set())
        if settings.name == "fasterrcnn_resnet50_fpn":  # as torchvision does: its norms were trained without epsilon
            for norm in _norms(detector):
                if norm.running_var is not None:
                    norm.running_var -= norm.eps
    return FasterRcnnEncoder(
        detector, settings.name, settings.regions, size, bool(weights), settings.frozen, channels_last
    )


def _norms(detector: FasterRCNN) -> list[nn.BatchNorm2d]:
    return [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def _calibrate_norms(detector: FasterRCNN) -> None:
    """Give the norms of random weights the statistics of random photos, mosaics of colours.

    Otherwise the signal of an untrained MobileNet vanishes, and all regions have the same features.
    """
    photos = nn.functional.interpolate(torch.rand(8, 3, 8, 8), (128, 128))
    mean, std = torch.tensor(_MEAN).view(3, 1, 1), torch.tensor(_STD).view(3, 1, 1)
    for norm in _norms(detector):
        norm.momentum = 1.0
    detector.backbone.train()((photos - mean) / std)
    for norm in _norms(detector):
        norm.momentum = 0.1
