"""COCO's caption files: annotations (references) and results, [{"image_id": …, "caption": …}, …].

Chen et al., Microsoft COCO Captions: Data Collection and Evaluation Server, 2015; cocodataset.org/#format-results.
"""

from collections.abc import Mapping
from pathlib import Path

from src.base.errors import InputError
from src.base.files import write_json
from src.base.json_files import id_text, list_of, load_json


def read_results(path: Path) -> list[tuple[str, str]]:
    """(photo, caption) of each entry of a result file, in file order; the photo's id as text.

    Raises InputError unless it is a list, not empty, of objects with image_id and caption.
    """
    content = load_json(path)
    if not isinstance(content, list):
        raise InputError(f'{path}: expected a COCO result file, a list [{{"image_id": …, "caption": …}}, …]')
    if not content:
        raise InputError(f"{path} holds no captions at all")
    entries = []
    for position, entry in enumerate(content, 1):
        photo, caption = (entry.get("image_id"), entry.get("caption")) if isinstance(entry, dict) else (None, None)
        if not id_text(photo) or not isinstance(caption, str):
            raise InputError(f"{path}, entry {position}: expected an image_id, a number or text, and a caption, text")
        entries.append((id_text(photo), caption))
    return entries


def read_annotations(path: Path) -> dict[str, list[str]]:
    """The captions of each photo of a file such as captions_val2017.json, photos and captions in file order.

    Raises InputError where it has another form, holds no captions, or a caption of a photo that it does not list.
    """
    content = load_json(path)
    captions: dict[str, list[str]] = {}
    annotations = list_of(content, "annotations", path)
    for position, image in enumerate(list_of(content, "images", path), 1):
        if not id_text(image.get("id")):
            raise InputError(f'{path}: entry {position} of "images" has no id; get the file again')
        captions[id_text(image["id"])] = []
    for position, annotation in enumerate(annotations, 1):
        photo, caption = id_text(annotation.get("image_id")), annotation.get("caption")
        if photo not in captions:
            unknown = annotation.get("image_id")
            raise InputError(f"{path}, annotation {position}: image_id {unknown!r} is not in its images; correct it")
        if not isinstance(caption, str):
            raise InputError(f"{path}, annotation {position}: its caption is not text; is it a file of captions?")
        captions[photo].append(caption)
    if not annotations:
        raise InputError(f"{path} holds no captions at all")
    return captions


def write_results(path: Path, captions: Mapping[str, str]) -> None:
    """Write a result file. captions: by photo; ids are written as numbers if all of them are decimal numbers."""
    numeric = all(name.isdecimal() and name == str(int(name)) for name in captions)
    write_json(path, [{"image_id": int(k) if numeric else k, "caption": text} for k, text in captions.items()])
