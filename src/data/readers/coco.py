"""COCO 2017: annotations/captions_train2017.json and its like, beside folders of photos.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; Chen et al., Microsoft COCO Captions, 2015.
"""

from pathlib import Path

import pandas as pd

from src.base.errors import InputError
from src.base.json_files import id_text, list_of, load_json
from src.data.readers.common import Listed, add_photo, caption_table, check_root
from src.data.table import Rejection

LAYOUT = {
    "train": ("captions_train2017.json", "train2017"),
    "validation": ("captions_val2017.json", "val2017"),
    "test": ("image_info_test2017.json", "test2017"),
}
"""For each part, its file in annotations/ and the folder of its photos. Only that of training must be there."""


def _add_images(photos: dict[str, Listed], file: Path, images: list[dict], part: str, folder: str) -> None:
    for position, image in enumerate(images, 1):
        photo_id, name = id_text(image.get("id")), image.get("file_name")
        if not photo_id:
            raise InputError(f'{file}: entry {position} of "images" has no id; get the file again')
        path = f"{folder}/{name}" if isinstance(name, str) and name else ""
        add_photo(photos, photo_id, Listed(path, part, f"{file.name}, image {photo_id}"))


def _add_captions(photos: dict[str, Listed], file: Path, annotations: list[dict], part: str) -> list[Rejection]:
    """Give each photo its captions in file order; returns the annotations that cannot be used."""
    rejections = []
    for position, annotation in enumerate(annotations, 1):
        photo, caption = photos.get(id_text(annotation.get("image_id"))), annotation.get("caption")
        if photo is None or photo.part != part:
            fault = f"image_id {annotation.get('image_id')!r} is not in its images"
        elif not isinstance(caption, str):
            fault = "its caption is not text"
        else:
            photo.captions.append(caption)
            continue
        where = f"{file.name}, annotation {id_text(annotation.get('id')) or f'number {position}'}"
        rejections.append(Rejection(where, "", "", fault))
    return rejections


def read_coco(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """The parts of COCO 2017 that are there; photo_id is COCO's image id. See registry.read_dataset.

    Raises InputError where the captions of the training photos or a folder of photos is absent, or where a file is
    not what its name says.
    """
    check_root(root, "annotations/ and train2017/")
    photos: dict[str, Listed] = {}
    rejections: list[Rejection] = []
    for part, (name, folder) in LAYOUT.items():
        file = root / "annotations" / name
        if not file.exists():
            if part != "train":
                continue
            raise InputError(f"{file} is absent; put it there (data/README.md shows the layout) or set data.root")
        content = load_json(file)
        if not (root / folder).is_dir():
            raise InputError(f"{root / folder} is not a folder; the photos of {name} belong there, or take {name} away")
        _add_images(photos, file, list_of(content, "images", file), part, folder)
        if part != "test":
            rejections += _add_captions(photos, file, list_of(content, "annotations", file), part)
    return caption_table(root, photos, rejections, str(root / "annotations" / LAYOUT["train"][0]))
