"""The readers of caption data sets, on real files through preprocess and split, and on small synthetic folders."""

import csv
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src import preprocess, split
from src.base.errors import InputError
from src.data.readers.registry import read_dataset
from src.data.table import load_table
from src.data.vocabulary import Vocabulary, tokenize
from tests.helpers.bad_input import hurry


def coco_by_hand(root: Path) -> dict[str, tuple[str, str, list[str]]]:
    """(part, path, captions) by photo, read with plain loops; so are those below."""
    content = json.loads((root / "annotations" / "captions_train2017.json").read_text())
    return {
        str(image["id"]): (
            "train",
            f"train2017/{image['file_name']}",
            [a["caption"] for a in content["annotations"] if a["image_id"] == image["id"]],
        )
        for image in content["images"]
    }


def karpathy_by_hand(root: Path) -> dict[str, tuple[str, str, list[str]]]:
    content, parts = json.loads((root / "dataset_flickr8k.json").read_text()), {"val": "validation"}
    return {
        str(image["imgid"]): (
            parts.get(image["split"], image["split"]),
            f"Images/{image['filename']}",
            [sentence["raw"] for sentence in image["sentences"]],
        )
        for image in content["images"]
    }


def comma_by_hand(root: Path) -> dict[str, tuple[str, str, list[str]]]:
    photos: dict[str, tuple[str, str, list[str]]] = {}
    with open(root / "captions.txt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["image"]
            photos.setdefault(name.removesuffix(".jpg"), ("train", f"Images/{name}", []))[2].append(row["caption"])
    return photos


def token_by_hand(root: Path) -> dict[str, tuple[str, str, list[str]]]:
    photos: dict[str, tuple[str, str, list[str]]] = {}
    for line in (root / "Flickr8k.token.txt").read_text().splitlines():
        name, caption = line.split(".jpg#")[0], line.split("\t")[1]
        photos.setdefault(name, ("train", f"Images/{name}.jpg", []))[2].append(caption)
    return photos


def only_tokens(root: Path, shared: Path) -> Path:
    """Flickr8k without Kaggle's file of captions."""
    root.mkdir()
    for name in ("Images", "Flickr8k.token.txt"):
        (root / name).symlink_to(shared / "flickr8k" / name)
    return root


CASES = {
    "coco": ("coco", coco_by_hand, ("split.holdout=0.1", "split.folds=4"), (80, 0, 0)),
    "karpathy": ("karpathy", karpathy_by_hand, ("split.official=true", "split.holdout=0.1"), (80, 10, 10)),
}


@pytest.mark.parametrize("case", CASES)
def test_real_files_through_preprocess_and_split(case, shared_data, workplace, monkeypatch):
    """The table, the vocabulary and the folds hold what plain loops find in the files."""
    format, by_hand, splits, sizes = CASES[case]
    root = shared_data / ("coco_mini" if format == "coco" else "flickr8k")
    expected = by_hand(root)
    hurry(monkeypatch)
    arguments = [f"data.root={root}", f"data.format={format}", "view.size=32", "task=caption"]
    preprocess.main(arguments)
    cache = workplace / "runs" / "cache"
    table = load_table(next(cache.glob("photos-*")) / "photos.jsonl")
    check_table(table, expected)
    order = ("train", "validation", "test")
    assert table["part"].tolist() == [part for part, size in zip(order, sizes, strict=True) for _ in range(size)]
    texts = [text for row in table.itertuples() if row.part == "train" for text in row.captions]
    words = Vocabulary.load(next(cache.glob("vocabulary-*")) / "vocabulary.json")
    counted = Counter(word for text in texts for word in tokenize(text))
    assert dict(zip(words.words[4:], words.counts[4:], strict=True)) == {w: n for w, n in counted.items() if n >= 3}
    parts = {name: part for name, (part, _, _) in expected.items() if part != "test"}
    for how in splits:
        split.main([*arguments, how])
        check_folds(how, parts, folds_in(cache))


@pytest.mark.parametrize("by_hand", [comma_by_hand, token_by_hand])
def test_real_captions_of_flickr8k_without_its_parts(by_hand, shared_data, tmp_path):
    root = shared_data / "flickr8k"
    expected = by_hand(root)
    table, rejections = read_dataset(
        only_tokens(tmp_path / "own", shared_data) if by_hand is token_by_hand else root, "flickr8k"
    )
    check_table(table, expected)
    assert len(table) == 100 and not rejections


def check_table(table: pd.DataFrame, expected: dict[str, tuple[str, str, list[str]]]) -> None:
    assert {row.photo_id: (row.part, row.path, list(row.captions)) for row in table.itertuples()} == {
        name: (part, path, list(dict.fromkeys(" ".join(text.split()) for text in captions)))
        for name, (part, path, captions) in expected.items()
    }


def folds_in(cache: Path) -> dict[str, int]:
    """The fold of each photo in the newest folds.csv."""
    newest = max(cache.glob("folds-*/folds.csv"), key=lambda path: path.stat().st_mtime_ns)
    with open(newest, newline="") as file:
        return {row["photo_id"]: int(row["fold"]) for row in csv.DictReader(file)}


def check_folds(how: str, parts: dict[str, str], folds: dict[str, int]) -> None:
    assert folds.keys() == parts.keys()
    if how == "split.official=true":
        assert folds == {name: -1 if part == "train" else 0 for name, part in parts.items()}
    else:
        total = len(folds)
        wanted = {0: total / 10, -1: total * 0.9} if "holdout" in how else dict.fromkeys(range(4), total / 4)
        assert Counter(folds.values()) == pytest.approx(wanted, abs=1)


def photo(path: Path, seed: int = 0) -> None:
    """A small photo of coarse random patches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(20, 230, (6, 6, 3)).astype(np.uint8)
    path.write_bytes(cv2.imencode(".png", cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC))[1].tobytes())


def dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco(root: Path) -> Path:
    """Three photos for training, one for validation, two for test; the second test photo has no file."""
    ids_by_part = {"train": (9, 2, 5), "val": (4,), "test": (7, 8)}
    for part, ids in ids_by_part.items():
        images = [{"id": number, "file_name": f"{number:012}.jpg"} for number in ids]
        annotations = [{"id": 10 * n + k, "image_id": n, "caption": f" a {n}\n of\t{k} "} for k in (0, 1) for n in ids]
        name = "image_info_test2017.json" if part == "test" else f"captions_{part}2017.json"
        content = {"images": images} | ({} if part == "test" else {"annotations": annotations})
        dump(root / "annotations" / name, content)
        for number in ids[: None if part != "test" else 1]:
            photo(root / f"{part}2017" / f"{number:012}.jpg", number)
    return root


def karpathy(root: Path) -> Path:
    """Karpathy's file for COCO: one photo in each of its four splits."""
    splits = {"train": 3, "restval": 1, "val": 2, "test": 4}
    images = [
        {
            "filepath": "val2014",
            "filename": f"{number}.jpg",
            "imgid": 90 + number,
            "cocoid": number,
            "split": part,
            "sentences": [{"raw": f"one {part}"}, {"tokens": ["two", part]}, {"raw": f"one  {part} "}],
        }
        for part, number in splits.items()
    ]
    dump(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    for number in splits.values():
        photo(root / "val2014" / f"{number}.jpg", number)
    return root


def flickr8k(root: Path) -> Path:
    """Five photos; the official lists name four of them, and a test photo without captions."""
    lines = [f"{name}.jpg#{k}\t{name} {k}" for name in "abcde" for k in (0, 1)]
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    (root / "Flickr8k.token.txt").write_text("\r\n".join(lines) + "\n\n")
    lists = {"train": "d b", "dev": "a", "test": "c z"}
    for part, names in lists.items():
        (root / f"Flickr_8k.{part}Images.txt").write_text("".join(f"{name}.jpg\n" for name in names.split()))
    for name in "abcdez":
        (root / "Flicker8k_Dataset" / f"{name}.jpg").write_bytes(b"photo")
    return root


def flickr30k(root: Path) -> Path:
    """Both files of captions, as the authors and as Kaggle give them; the token file is the one that is read."""
    (root / "flickr30k-images").mkdir(parents=True)
    for name in "ab":
        (root / "flickr30k-images" / f"{name}.jpg").write_bytes(b"photo")
    (root / "results_20130124.token").write_text("b.jpg#0\tone, \u201ctwo\u201d\na.jpg#0\tthree#4 | x\nb.jpg#1\tfour\n")
    (root / "results.csv").write_text(
        "image_name| comment_number| comment\nb.jpg| 0| one | more\nb.jpg| 1   A dog runs .\na.jpg| 0| , two\n"
    )
    return root


def shown(root: Path, format: str) -> list[tuple]:
    table, rejections = read_dataset(root, format)
    assert not rejections
    return list(table[["photo_id", "path", "captions", "part"]].itertuples(index=False, name=None))


def test_coco_with_all_its_parts(tmp_path):
    table, rejections = read_dataset(coco(tmp_path), "coco")
    assert table["photo_id"].tolist() == ["9", "2", "5", "4", "7", "8"]
    assert table["part"].tolist() == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert table["captions"].tolist()[:5] == [(f"a {n} of 0", f"a {n} of 1") for n in (9, 2, 5, 4)] + [()]
    assert table["path"].tolist()[3:] == ["val2017/000000000004.jpg", "test2017/000000000007.jpg", ""]
    assert [(r.where, r.photo_id, r.reason) for r in rejections] == [
        ("image_info_test2017.json, image 8", "8", "no such file")
    ]
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    assert read_dataset(tmp_path, "coco")[0]["photo_id"].tolist() == ["9", "5", "4", "7", "8"]


def test_karpathys_coco_counts_restval_as_training_and_names_photos_by_cocoid(tmp_path):
    assert shown(karpathy(tmp_path), "karpathy") == [
        ("3", "val2014/3.jpg", ("one train", "two train"), "train"),
        ("1", "val2014/1.jpg", ("one restval", "two restval"), "train"),
        ("2", "val2014/2.jpg", ("one val", "two val"), "validation"),
        ("4", "val2014/4.jpg", ("one test", "two test"), "test"),
    ]


def test_official_lists_of_flickr8k(tmp_path):
    rows = shown(flickr8k(tmp_path), "flickr8k")
    assert [(name, part) for name, _, _, part in rows] == [
        ("b", "train"), ("d", "train"), ("a", "validation"), ("c", "test"), ("z", "test"),
    ]  # fmt: skip
    assert rows[0][1:3] == ("Flicker8k_Dataset/b.jpg", ("b 0", "b 1")) and rows[-1][2] == ()
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("b.jpg\nx.jpg\n")
    _, rejections = read_dataset(tmp_path, "flickr8k")
    assert [(r.where, r.photo_id) for r in rejections] == [("Flickr_8k.trainImages.txt, line 2", "x")]


def test_flickr30k_of_its_authors_and_of_kaggle(tmp_path):
    rows = shown(flickr30k(tmp_path), "flickr30k")
    assert [row[0::2] for row in rows] == [("b", ("one, \u201ctwo\u201d", "four")), ("a", ("three#4 | x",))]
    (tmp_path / "results_20130124.token").unlink()
    table, rejections = read_dataset(tmp_path, "flickr30k")
    assert table["captions"].tolist() == [("one | more",), (", two",)] and set(table["part"]) == {"train"}
    assert [r.where for r in rejections] == ["results.csv, line 3"]


def test_captions_txt_with_commas_and_quotation_marks(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"photo")
    rows = [
        'a.jpg,"one, ""two"" ,three"',
        "a.jpg,four, five",
        'a.jpg,six "seven" eight',
        'a.jpg,"never closed',
        "a.jpg",
    ]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *rows]))
    table, rejections = read_dataset(tmp_path, "flickr8k")
    assert table["captions"][0] == ('one, "two" ,three', "four, five", 'six "seven" eight')
    assert [r.where for r in rejections] == ["captions.txt, line 5", "captions.txt, line 6"]
    assert rejections[0].reason == "'a.jpg,\"never closed' is not image,caption"


def with_captions(root: Path, *changed: dict) -> None:
    file = root / "annotations" / "captions_train2017.json"
    dump(file, json.loads(file.read_text()) | {"annotations": list(changed)})


def with_images(root: Path, *changed: dict) -> None:
    file = root / "annotations" / "captions_train2017.json"
    dump(file, json.loads(file.read_text()) | {"images": list(changed)})


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


TRAIN, IMAGES = "annotations/captions_train2017.json", {"id": 9, "file_name": "9.jpg"}
FAULTS = {
    "no folder": (coco, lambda root: root.rename(root.with_name("x")), ["is not a folder", "train2017/"]),
    "no annotations": (coco, lambda root: (root / TRAIN).unlink(), [TRAIN, "is absent", "data/README.md"]),
    "cut off": (
        coco,
        lambda root: cut(root / TRAIN, 100),
        [TRAIN, "line 1, column ", "not JSON", "get the file again"],
    ),
    "another file": (coco, lambda root: dump(root / TRAIN, {"images": []}), [TRAIN, '"annotations"']),
    "a list": (coco, lambda root: dump(root / TRAIN, [1]), [TRAIN, '"images"']),
    "deep": (coco, lambda root: (root / TRAIN).write_text("[" * 200_000), [TRAIN, "not usable JSON"]),
    "no objects": (coco, lambda root: with_images(root, 5), [TRAIN, 'entry 1 of "images" is not an object']),
    "no id": (coco, lambda root: with_images(root, {"id": True}), [TRAIN, 'entry 1 of "images" has no id']),
    "twice": (coco, lambda root: with_images(root, IMAGES, IMAGES), ["photo 9", "image 9 and in", "keep one"]),
    "in two parts": (coco, lambda root: with_images(root, {"id": 4}), ["photo 4", "captions_val2017", "keep one"]),
    "no image": (coco, lambda root: with_images(root), ["captions_train2017.json", "no photo for training"]),
    "no captions": (coco, with_captions, ["captions_train2017.json", "no captions at all"]),
    "blank captions": (
        coco,
        lambda root: with_captions(root, {"image_id": 9, "caption": " \n"}),
        ["captions_train2017.json", "no captions at all"],
    ),
    "no photos": (
        coco,
        lambda root: (root / "val2017").rename(root / "x"),
        ["val2017 is not a folder", "captions_val"],
    ),
    "two of Karpathy": (karpathy, lambda root: dump(root / "dataset_x.json", 1), ["2 (dataset_coco.json, dataset_x"]),
    "none of Karpathy": (karpathy, lambda root: (root / "dataset_coco.json").unlink(), ["dataset_*.json, found none"]),
    "no folder of photos": (
        karpathy,
        lambda root: dump(root / "dataset_coco.json", {"images": [{"filename": "a.jpg"}]}),
        ["no folder of photos", "Images, images, Flicker8k_Dataset"],
    ),
    "no tokens": (flickr8k, lambda root: (root / "Flickr8k.token.txt").unlink(), ["neither captions.txt nor Flickr8k"]),
    "no header": (
        flickr8k,
        lambda root: (root / "captions.txt").write_text("a.jpg,b\n"),
        ["captions.txt", "header image,caption"],
    ),
    "in two lists": (
        flickr8k,
        lambda root: (root / "Flickr_8k.devImages.txt").write_text("a.jpg\nb.jpg\n"),
        ["b.jpg", "trainImages.txt, line 2", "devImages.txt, line 2", "keep one"],
    ),
    "two endings": (
        flickr8k,
        lambda root: (root / "Flickr8k.token.txt").write_text("a.jpg#0\tx\na.png#0\ty\n"),
        ["a.jpg (Flickr8k.token.txt, line 1)", "a.png (Flickr8k.token.txt, line 2)"],
    ),
    "empty": (flickr30k, lambda root: (root / "results_20130124.token").write_text("\n"), ["no photo for training"]),
    "latin-1": (
        flickr30k,
        lambda root: (root / "results_20130124.token").write_bytes(b"a.jpg#0\tcaf\xe9\n"),
        ["results_20130124.token, line 1", "not UTF-8"],
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_a_file_is_one_clear_line(kind, tmp_path):
    make, spoil, parts = FAULTS[kind]
    root = make(tmp_path / "data")
    spoil(root)
    with pytest.raises(InputError) as error:
        read_dataset(root, make.__name__)
    assert not [part for part in parts if part not in str(error.value)], str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_used_is_listed_with_its_place(tmp_path):
    root = coco(tmp_path / "coco")
    fine = {"image_id": 9, "caption": "fine"}
    with_captions(root, fine, {"id": 3, "image_id": 4, "caption": "x"}, {"image_id": 2, "caption": None}, {"id": 8})
    with_images(root, {"id": 9, "file_name": "../x.jpg"}, {"id": 2}, {"id": 5, "file_name": "000000000005.jpg"})
    table, rejections = read_dataset(root, "coco")
    assert table["photo_id"].tolist() == ["5", "4", "7", "8"]
    train = "captions_train2017.json"
    assert [(r.where, r.photo_id, r.reason) for r in rejections if r.where.startswith(train)] == [
        (f"{train}, annotation 3", "", "image_id 4 is not in its images"),
        (f"{train}, annotation number 3", "", "its caption is not text"),
        (f"{train}, annotation 8", "", "image_id None is not in its images"),
        (f"{train}, image 9", "9", "its path climbs out of data.root with '..'"),
        (f"{train}, image 2", "2", "its path is blank"),
    ]
    root = karpathy(tmp_path / "karpathy")
    content = json.loads((root / "dataset_coco.json").read_text())
    content["images"][0]["split"], content["images"][1]["sentences"][1] = "held out", {"raw": 5}
    content["images"].append({"split": "train", "filepath": "val2014", "filename": "5.jpg"})
    dump(root / "dataset_coco.json", content)
    assert [(r.where, r.photo_id, r.reason) for r in read_dataset(root, "karpathy")[1]] == [
        ("dataset_coco.json, image 1", "3", "its split 'held out' is not one of train, restval, val, test"),
        ("dataset_coco.json, image 2, sentence 2", "", "it has no text"),
        ("dataset_coco.json, image 5", "", "it has no imgid"),
    ]


def test_official_parts_are_kept_and_near_duplicates_across_them_reported(workplace, monkeypatch, capsys):
    hurry(monkeypatch)
    root = coco(workplace / "coco")
    photo(root / "val2017" / "000000000004.jpg", 5)  # the same as photo 5
    arguments = [f"data.root={root}", "data.format=coco", "view.size=32", "data.on_bad_photo=skip", "task=caption"]
    preprocess.main(arguments)
    assert "1 rows or photos cannot be used (first: image_info_test2017.json, image 8" in capsys.readouterr().out
    split.main([*arguments, "split.official=true"])
    assert "1 validation photos have a near-duplicate in training" in capsys.readouterr().out
    root = flickr30k(workplace / "flickr30k")
    for name in "ab":
        photo(root / "flickr30k-images" / f"{name}.jpg")
    arguments = [f"data.root={root}", "data.format=flickr30k", "view.size=32", "split.official=true", "task=caption"]
    preprocess.main(arguments)
    with pytest.raises(InputError, match=r"no validation part; take split\.holdout=0\.1"):
        split.main(arguments)
