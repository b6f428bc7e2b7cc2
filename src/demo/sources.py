"""What the photos of the demo competition show: photographs that ship inside required packages, and synthetic scenes.

The photographs: china.jpg and flower.jpg of scikit-learn (CC BY 2.0, by danielbuechele and vultilion on Flickr),
grace_hopper.jpg of matplotlib (US Navy, public domain), and of scikit-image the astronaut and the Hubble deep
field (NASA, public domain), the rocket (SpaceX, public domain), the cat Chelsea (CC0, Stefan van der Walt) and the
coffee (CC0, Rachel Michetti).
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from src.base.errors import InputError
from src.base.randomness import fold_in
from src.demo.scenes import landscapes, objects, places

Scene = Callable[[np.random.Generator, np.random.Generator, int, int], np.ndarray]
# drawn at that many times the size, then averaged down: smooth edges and fine texture
_OVERSAMPLING = 2
# a crop has at least that many pixels for one of the photo, so that the undistorted photo is sharp
_CROP_SHARPNESS = 1.3
_LOOKS = {"train": 4, "test": 1}
_SHARE_OFPHOTOGRAPHS = 0.22


@dataclass(frozen=True)
class Source:
    """A photograph (package and file) or a scene that photos are made of; its photos form one group.

    noun: what a rater calls it; upper: the share of a photograph's height, from the top, that crops are taken from.
    """

    group: str
    noun: str
    photograph: tuple[str, str] | None = None
    scene: Scene | None = None
    upper: float = 1.0


PHOTOGRAPHS = {
    "train": (
        Source("china", "old temple", ("sklearn", "datasets/images/china.jpg")),
        Source("hopper", "portrait", ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"), upper=0.72),
        Source("chelsea", "cat", ("skimage", "data/chelsea.png")),
        Source("coffee", "cup of coffee", ("skimage", "data/coffee.png")),
        Source("rocket", "rocket", ("skimage", "data/rocket.jpg")),
        Source("hubble", "night sky", ("skimage", "data/hubble_deep_field.jpg")),
    ),
    "test": (
        Source("flower", "flower", ("sklearn", "datasets/images/flower.jpg")),
        Source("astronaut", "portrait", ("skimage", "data/astronaut.png"), upper=0.66),
    ),
}
_SCENES: dict[str, tuple[str, Scene]] = {
    "sea": ("sunset", landscapes.sea),
    "boat": ("sailing boat", landscapes.boat),
    "hills": ("landscape", landscapes.hills),
    "mountains": ("snowy mountain", landscapes.mountains),
    "desert": ("desert", landscapes.desert),
    "skyline": ("city view", landscapes.skyline),
    "night": ("night sky", landscapes.night),
    "flowers": ("flower", objects.flowers),
    "still-life": ("still life", objects.still_life),
    "portrait": ("portrait", objects.portrait),
    "street": ("street", places.street),
    "underwater": ("underwater scene", places.underwater),
    "room": ("room", places.room),
    "textile": ("striped fabric", objects.textile),
    "balloons": ("hot air balloon", places.balloons),
}


def drawings(part: str) -> tuple[Source, ...]:
    """The synthetic groups of a part: several looks of every scene for "train", and another one for "test"."""
    looks = range(_LOOKS["train"]) if part == "train" else range(_LOOKS["train"], sum(_LOOKS.values()))
    return tuple(
        Source(f"{name}-{look + 1}", noun, scene=scene) for look in looks for name, (noun, scene) in _SCENES.items()
    )


def assign(part: str, count: int, rng: np.random.Generator) -> list[Source]:
    """A source for each of `count` photos in random order, all photographs, and all scenes, about equally often."""
    real = round(_SHARE_OFPHOTOGRAPHS * count)
    pools = ((PHOTOGRAPHS[part], real), (drawings(part), count - real))
    sources = [pool[index % len(pool)] for pool, size in pools for index in range(size)]
    return [sources[index] for index in rng.permutation(count)]


@functools.cache
def _photograph(package: str, file: str) -> np.ndarray:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise InputError(f"the demo needs {file} of {package}, which is missing: pip install -r requirements.txt")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _crop(picture: np.ndarray, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    largest = min(picture.shape[0] / height, picture.shape[1] / width)
    zoom = rng.uniform(min(_CROP_SHARPNESS, largest), largest)
    tall, wide = int(zoom * height), int(zoom * width)
    top = int(rng.integers(picture.shape[0] - tall + 1))
    left = int(rng.integers(picture.shape[1] - wide + 1))
    return cv2.resize(picture[top : top + tall, left : left + wide], (width, height), interpolation=cv2.INTER_AREA)


def render(source: Source, seed: int, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An undistorted photo of `source`, uint8 RGB [height, width, 3], in half of the cases mirrored.

    seed fixes the looks of synthetic groups; rng the crop or the composition.
    """
    if source.photograph is not None:
        whole = _photograph(*source.photograph)
        picture = _crop(whole[: int(source.upper * len(whole))], rng, height, width)
    else:
        assert source.scene is not None
        look = np.random.default_rng(fold_in(seed, "demo", "look", source.group))
        canvas = source.scene(look, rng, height * _OVERSAMPLING, width * _OVERSAMPLING)
        small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
        picture = np.round(np.clip(small, 0.0, 1.0) * 255.0).astype(np.uint8)
    return picture[:, ::-1] if rng.random() < 0.5 else picture
