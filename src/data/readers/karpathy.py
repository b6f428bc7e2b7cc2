"""Karpathy's JSON, dataset_coco.json and its like: photos, captions and the field's usual split in one file.

Karpathy and Fei-Fei, Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015.
"""

from pathlib import Path

import pandas as pd

from src.base.errors import InputError
from src.base.json_files import id_text, list_of, load_json
from src.data.readers.common import Listed, add_photo, caption_table, check_root
from src.data.readers.flickr import photo_folder
from src.data.table import Rejection

PARTS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


def _caption(sentence: object) -> str | None:
    """The caption as people wrote it, else its tokens joined; None where there is neither."""
    if not isinstance(sentence, dict):
        return None
    if isinstance(sentence.get("raw"), str):
        return sentence["raw"]
    tokens = sentence.get("tokens")
    return " ".join(map(str, tokens)) if isinstance(tokens, list) else None


def _add_image(photos: dict[str, Listed], image: dict, folder: str | None, where: str) -> list[Rejection]:
    """Enter one photo with its captions; returns what of it cannot be used."""
    photo_id = id_text(image.get("cocoid")) or id_text(image.get("imgid"))
    part = PARTS.get(str(image.get("split")))
    if not photo_id or part is None:
        fault = f"its split {image.get('split')!r} is not one of {', '.join(PARTS)}" if photo_id else "it has no imgid"
        return [Rejection(where, photo_id, str(image.get("filename", "")), fault)]
    sentences = image.get("sentences")
    captions = list(map(_caption, sentences)) if isinstance(sentences, list) else []
    file_name, file_folder = image.get("filename"), folder or image.get("filepath")
    path = f"{file_folder}/{file_name}" if all(isinstance(v, str) and v for v in (file_name, file_folder)) else ""
    add_photo(photos, photo_id, Listed(path, part, where, [caption for caption in captions if caption is not None]))
    without_text = [position for position, caption in enumerate(captions, 1) if caption is None]
    return [Rejection(f"{where}, sentence {position}", "", "", "it has no text") for position in without_text]


def read_karpathy(root: Path) -> tuple[pd.DataFrame, list[Rejection]]:
    """The one dataset_*.json in `root`, restval counted as training. See registry.read_dataset.

    photo_id is the cocoid, and for Flickr the imgid, as the field's result files name photos. The test photos keep
    their captions. COCO's photos lie in the folders that the file names, Flickr's in one of flickr.FOLDERS.
    Raises InputError where there is no such file or several, or no folder of photos.
    """
    check_root(root, "dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json")
    files = sorted(root.glob("dataset_*.json"))
    if len(files) != 1:
        names = f"{len(files)} ({', '.join(file.name for file in files)})" if files else "none"
        raise InputError(f"{root}: expected one file dataset_*.json, found {names}; data/README.md shows the layout")
    images = list_of(load_json(files[0]), "images", files[0])
    folder = None if images and all("filepath" in image for image in images) else photo_folder(root)
    photos: dict[str, Listed] = {}
    rejections: list[Rejection] = []
    for position, image in enumerate(images, 1):
        rejections += _add_image(photos, image, folder, f"{files[0].name}, image {position}")
    return caption_table(root, photos, rejections, str(files[0]))
