"""MOS and captions of any photo by the networks of a finished run, and where its captioner attends at each word."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from src.base.csv_files import write_csv
from src.base.errors import InputError
from src.data.handcrafted import DECODED_SHORT_SIDE
from src.data.image import FORMATS, decode, load_photo
from src.data.view import at_own_aspect, needed_short_side, to_view
from src.decoding.strategy import CaptionSearch
from src.inference.caption_candidates import CaptionGenerator, candidate_searches
from src.inference.captioner_attention import AttentionMaps, attention_maps_of
from src.inference.mos_prediction import MosPredictor
from src.inference.networks import best_fold, open_captioners, open_networks
from src.models.captioner import Captioner
from src.models.encoder import views_of
from src.pipeline.runs import best_checkpoint, finished_folds, fold_folder
from src.settings.schema import Settings, ViewSettings
from src.training.infer import autocast

SHOWN_SHORT_SIDE = 640
"""Pixels: a JPEG is decoded no smaller than that to be drawn."""
UNREAD_SUFFIXES = {".heic", ".heif", ".hif", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2"}
"""Of photos that cannot be read without a further package: in a folder they are reported, not passed over."""


@dataclass(frozen=True)
class Prediction:
    """MOS and caption of one photo; None for a task that the run did not learn."""

    mos: float | None
    caption: str | None


FilePrediction = tuple[Path, Prediction | None, str | None]
"""A photo file, its prediction, and why it cannot be read; one of the two is None."""


def folds_to_ask(folder: Path, fold: int | None) -> list[int]:
    """The finished folds of the run in `folder`; only `fold` where it is given. Raises InputError where none is."""
    finished = finished_folds(folder)
    if fold is None and finished:
        return finished
    if fold in finished:
        return [fold]
    wanted = "no fold" if fold is None else f"fold {fold} is not"
    there = f" (finished: {', '.join(map(str, finished))})" if finished else ""
    how = shlex.join(["python", "-m", "src.train", f"run.name={folder.name}"])
    raise InputError(f"{folder}: {wanted} trained to its end{there}; {how} does it")


class PhotoCaptioner:
    """The networks of a run, which answer as `predict` does for test photos.

    MOS is the mean over its finished folds; captions are those of the fold that scored best, or of all folds together
    with decoding.model_averaging. Raises InputError where no fold is finished, or its files do not fit the settings.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folders = {fold: fold_folder(folder, fold) for fold in folds_to_ask(folder, settings.train.fold)}
        self.predictors: list[MosPredictor] = []
        self.networks: list[Captioner] = []
        if settings.task != "caption":
            flips = settings.predict.tta_flips and not settings.encoder.cached
            paths = [best_checkpoint(path, "mos") for path in folders.values()]
            self.networks += [network for network, _ in open_networks(paths, settings)]
            self.predictors = [
                MosPredictor(network, flips, settings.predict.tta_scales).to(self.device) for network in self.networks
            ]
        if settings.task != "mos":
            best = best_fold(folders)
            if settings.decoding.model_averaging == "none":
                folders = {best: folders[best]}
            encoder = self.networks[0].encoder if self.networks else None
            networks, self.vocabulary = open_captioners(list(folders.values()), settings, encoder=encoder)
            words = self.vocabulary.words
            self.networks += networks
            search, averaging = CaptionSearch(settings.decoding, words), settings.decoding.model_averaging
            self.generator = CaptionGenerator(networks, [search], settings.run.seed, averaging).to(self.device)
            self.attending = networks[list(folders).index(best)]
            searches = [CaptionSearch(decoding, words) for decoding in candidate_searches(settings).values()]
            self.explorer = CaptionGenerator(networks, searches, settings.run.seed, averaging).to(self.device)

    @property
    def view(self) -> ViewSettings:
        """The form in which photos are seen."""
        return self.settings.view

    def seen(self, rgb: np.ndarray) -> np.ndarray:
        """What the networks see of a photo, uint8 [H, W, 3] → uint8 [h, w, C]: this run's view; where it caches
        features of whole photos, the photo at its own aspect ratio."""
        long_side = self.settings.encoder.whole_photos
        return at_own_aspect(rgb, long_side, self.view) if long_side else to_view(rgb, self.view)

    def _inputs(self, photos: Sequence[np.ndarray]) -> list[torch.Tensor | dict[str, torch.Tensor]]:
        """The networks' input for each view of the photos: the pixels, or where a run caches features, these."""
        images = [torch.tensor(photo[None], device=self.device) for photo in photos]  # a photo may be read-only
        encoder = self.settings.encoder
        if not encoder.cached:
            return [torch.cat(images)]
        # all folds share the frozen encoder
        with torch.autocast(self.device.type, enabled=False):  # as they are cached
            features = [views_of(self.networks[0].encoder, image, encoder.mirrored) for image in images]
        return [
            {name: torch.cat([photo[name][:, view] for photo in features]) for name in features[0]}
            for view in range(encoder.cached_views)
        ]

    def describe(self, photos: Sequence[np.ndarray], crops: np.ndarray | None = None) -> list[Prediction]:
        """MOS and caption of photos, each uint8 as `seen` gives it.

        crops: their other pieces, uint8 [B, K, size, size, C], over which the MOS is averaged too.
        """
        mos: list[float | None] = [None] * len(photos)
        captions: list[str | None] = [None] * len(photos)
        with torch.inference_mode(), autocast(self.settings, self.device):
            inputs = self._inputs(photos)
            if self.predictors:
                pieces = inputs if self.settings.predict.tta_flips else inputs[:1]
                others = () if crops is None else torch.from_numpy(crops).to(self.device).unbind(1)
                scores = [predictor(piece) for piece in (*pieces, *others) for predictor in self.predictors]
                mos = torch.stack(scores).mean(dim=0).tolist()
            if self.settings.task != "mos":
                captions = [self.vocabulary.decode(ids) for ids in self._write(inputs[0], [0] * len(photos)).tolist()]
        return [Prediction(*pair) for pair in zip(mos, captions, strict=True)]

    def describe_frame(self, frame: np.ndarray) -> Prediction:
        """MOS and caption of a video's frame, BGR uint8 [H, W, 3]."""
        return self.describe([self.seen(np.ascontiguousarray(frame[:, :, ::-1]))])[0]

    def candidates(self, photo: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Captions of one photo, uint8 as `seen` gives it, by all searches of predict, and its `retrieval_features`.

        For a run with captions.
        """
        with torch.inference_mode(), autocast(self.settings, self.device):
            views = self._inputs([photo])
            *tokens, pooled = self.explorer(views[0], torch.zeros(1, dtype=torch.int64, device=self.device))
            if self.settings.decoding.model_averaging != "none" and not self.settings.encoder.cached:
                pooled = self.attending.encoded(views[0]).pooled.float()  # the first network's is not the best fold's
        captions = [self.vocabulary.decode(ids) for of_search in tokens for ids in of_search[0].tolist()]
        cached = [view.get("levels", view["pooled"]) for view in views if isinstance(view, dict)]
        features = torch.stack(cached, dim=1) if cached else pooled
        return [caption for caption in dict.fromkeys(captions) if caption], features[0].float().cpu().numpy()

    def attention_maps(self, photo: np.ndarray, row: int = 0) -> AttentionMaps:
        """Where the captioner attends while it writes the caption of one photo, uint8 as `seen` gives it.

        row: of the photo in the run's table, by which decoding.search=sample draws; 0 for one of no table. Raises
        InputError for a run without captions, and for a captioner that does not attend.
        """
        if self.settings.task == "mos":
            raise InputError(
                f"run.name={self.settings.run.name} wrote no captions (task=mos), so there is no attention"
            )
        with torch.inference_mode(), autocast(self.settings, self.device):
            images = self._inputs([photo])[0]
            return attention_maps_of(self.attending, images, self._write(images, [row]), self.vocabulary, self.settings)

    def _write(self, images: torch.Tensor | dict[str, torch.Tensor], rows: list[int]) -> torch.Tensor:
        """The best caption of each photo: int64 [B, T]. rows: those by which random captions are drawn."""
        return self.generator(images, torch.tensor(rows, device=self.device))[0][:, 0]


def photos_in(folder: Path) -> list[Path]:
    """The photos in the folder, known by the ends of their names, sorted. Raises InputError where there is none."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    suffixes |= UNREAD_SUFFIXES
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if not photos:
        raise InputError(f"{folder}: no photos in it (folders inside it are not searched)")
    return photos


def describe_files(captioner: PhotoCaptioner, paths: Iterable[Path]) -> Iterator[FilePrediction]:
    """Each photo file with its prediction, or with the reason why it cannot be read; in order."""
    paths, batch_size = list(paths), captioner.settings.train.batch_size
    megapixels = captioner.settings.data.maximum_megapixels
    for begin in range(0, len(paths), batch_size):
        batch = paths[begin : begin + batch_size]
        photos = [(path, load_photo(path, captioner.view, megapixels)) for path in batch]
        readable = [(path, photo) for path, photo in photos if photo.problem is None]
        whole = captioner.settings.encoder.whole_photos
        seen = [
            captioner.seen(decode(path.read_bytes(), whole, megapixels)) if whole else photo.pixels
            for path, photo in readable
        ]
        crops = np.stack([photo.crops for _, photo in readable]) if readable else None
        predictions = iter(captioner.describe(seen, crops) if readable else [])
        for path, photo in photos:
            yield path, next(predictions) if photo.problem is None else None, photo.problem


def file_name(path: Path) -> str:
    """The name of a file as text; bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def write_captions(out: Path, rows: Iterable[FilePrediction]) -> None:
    """Write photo, mos and caption as CSV; empty cells where a photo could not be read, or the run learned no such."""
    cells = [
        [file_name(path), predicted and predicted.mos, predicted and predicted.caption] for path, predicted, _ in rows
    ]
    write_csv(out, ["photo", "mos", "caption"], cells)


def seen_of_file(captioner: PhotoCaptioner, path: Path) -> np.ndarray:
    """What the networks see of a readable photo file: see `PhotoCaptioner.seen`."""
    smallest = captioner.settings.encoder.whole_photos or needed_short_side(captioner.view, DECODED_SHORT_SIDE)
    return captioner.seen(decode(path.read_bytes(), smallest, captioner.settings.data.maximum_megapixels))


def attention_of_file(
    captioner: PhotoCaptioner, path: Path, row: int = 0
) -> tuple[AttentionMaps, np.ndarray, tuple[int, int, int, int]]:
    """The attention maps of a photo file, and what `photo_to_draw_on` returns.

    Raises InputError as `PhotoCaptioner.attention_maps` does.
    """
    return captioner.attention_maps(seen_of_file(captioner, path), row), *photo_to_draw_on(captioner.settings, path)


def photo_to_draw_on(settings: Settings, path: Path) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A readable photo file as maps are drawn on it, uint8 [H, W, C], and its `view_box`."""
    short_side = needed_short_side(settings.view, SHOWN_SHORT_SIDE)
    photo = decode(path.read_bytes(), short_side, settings.data.maximum_megapixels)
    height, width = photo.shape[:2]
    return photo, (0, 0, height, width) if settings.encoder.whole_photos else view_box(height, width, settings.view)


def view_box(height: int, width: int, view: ViewSettings) -> tuple[int, int, int, int]:
    """Where the view's square lies over a photo of that size: top, left, height, width in the photo's pixels.

    It is the photo itself where the aspect ratio was given up, greater where borders were added.
    """
    if view.fit == "squash":
        return 0, 0, height, width
    side = max(height, width) if view.fit == "pad" else min(height, width)
    if view.fit == "native":
        side = min(side, view.size)
    return (height - side) // 2, (width - side) // 2, side, side
