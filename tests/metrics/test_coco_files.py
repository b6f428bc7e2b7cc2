"""COCO result files, read and written, and a whole run on a data set of captions that is scored through them."""

import contextlib
import csv
import io
import json
from pathlib import Path

import pytest

from src import ensemble, evaluate, predict, preprocess, split, submit, train
from src.base.errors import InputError
from src.metrics.coco_files import write_results
from src.metrics.constant_caption import ConstantCaption
from src.metrics.file_evaluation import pair, read_predictions, read_references
from tests.conftest import TINY
from tests.helpers.bad_input import hurry
from tests.helpers.small_meteor import small_meteor

STAGES = (preprocess, split, train, predict, ensemble, evaluate, submit)
ANNOTATIONS = {
    "images": [{"id": 5}, {"id": 17}, {"id": 3}],
    "annotations": [
        {"image_id": 17, "caption": "a dog\non grass"},
        {"image_id": 5, "caption": "two cats"},
        {"image_id": 17, "caption": " a brown dog "},
    ],
}
RESULTS = [
    {"image_id": 17, "caption": "a dog "},
    {"image_id": "5", "caption": "cats"},
    {"image_id": 3, "caption": "nothing", "score": 1},
]


@pytest.fixture
def write(tmp_path):
    def writer(name: str, content: object) -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return writer


def test_results_beside_annotations(write):
    """Ids are compared as text; a photo without a reference is not scored."""
    pairs = pair(read_predictions(write("r.JSON", RESULTS)), read_references(write("c.json", ANNOTATIONS)))
    assert pairs.candidates == ["cats", "a dog"]
    assert pairs.references == [["two cats"], ["a dog on grass", "a brown dog"]]
    table = write("r.csv", "img_name,comments\n5,two cats\n17,a dog\n17,a brown dog\n3,\n")
    again = pair(read_predictions(write("r.json", RESULTS)), read_references(table))
    assert again.candidates == pairs.candidates and not again.notes


def without(photo: int) -> list[dict]:
    return [entry for entry in RESULTS if int(entry["image_id"]) != photo]


BAD_RESULTS = {
    "ids not in the references": (
        [*RESULTS, {"image_id": 8, "caption": "x"}],
        "1 photo of .*r.json not in .*c.json: 8;",
    ),
    "ids missing": (without(17), "1 photo of .*c.json not in .*r.json: 17;"),
    "an id twice": ([*RESULTS, RESULTS[1]], r"r.json, entry 4: photo 5 is there already \(entry 2\); keep one"),
    "no captions": ([], "r.json holds no captions at all"),
    "annotations for results": (ANNOTATIONS, "r.json: expected a COCO result file, a list"),
    "no image_id": ([{"id": 17, "caption": "x"}], "r.json, entry 1: expected an image_id"),
    "half a number": ([{"image_id": 1.5, "caption": "x"}], "r.json, entry 1: expected an image_id"),
    "no caption": ([RESULTS[0], {"image_id": 5}], "r.json, entry 2: expected an image_id"),
    "no object": ([5], "r.json, entry 1: expected an image_id"),
    "cut off": (json.dumps(RESULTS)[:60], "r.json, line 1, column .*: not JSON"),
    "half a letter": ('[{"image_id": 5, "caption": "\\ud83d"}]', "r.json: not usable JSON"),
    "empty": ("", "r.json, line 1, column 1: not JSON"),
    "blank captions": ([entry | {"caption": " "} for entry in RESULTS], "nothing to score: .*r.json and .*c.json"),
}


@pytest.mark.parametrize("kind", BAD_RESULTS)
def test_a_result_file_that_cannot_be_scored_is_one_clear_line(kind, write):
    content, message = BAD_RESULTS[kind]
    with pytest.raises(InputError, match=message) as error:
        pair(read_predictions(write("r.json", content)), read_references(write("c.json", ANNOTATIONS)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annotations": []}, "c.json holds no captions at all"),
        ({"annotations": [{"image_id": 8, "caption": "x"}]}, "c.json, annotation 1: image_id 8 is not in its images"),
        ({"annotations": [{"image_id": 3, "bbox": []}]}, "c.json, annotation 1: its caption is not text"),
        ({"annotations": None}, 'c.json: expected an object with a list "annotations"'),
        ({"images": [{}]}, 'c.json: entry 1 of "images" has no id'),
    ],
)
def test_annotations_that_cannot_be_used_are_one_clear_line(changed, message, write):
    with pytest.raises(InputError, match=message):
        read_references(write("c.json", ANNOTATIONS | changed))


def test_ids_are_written_as_numbers_where_all_are(tmp_path):
    for captions, ids in (
        ({"17": "a", "5": "é"}, [17, 5]),
        ({"17": "a", "05": "b"}, ["17", "05"]),
        ({"x": "a"}, ["x"]),
    ):
        write_results(tmp_path / "r.json", captions)
        assert [entry["image_id"] for entry in json.loads((tmp_path / "r.json").read_text())] == ids
        read = read_predictions(tmp_path / "r.json").captions
        assert read == {name: (text,) for name, text in captions.items()}


def official_captions(root: Path, part: str) -> dict:
    """COCO annotations made from one part of Karpathy's file."""
    images = [i for i in json.loads((root / "dataset_flickr8k.json").read_text())["images"] if i["split"] == part]
    sentences = [sentence for image in images for sentence in image["sentences"]]
    captions = [{"id": s["sentid"], "image_id": s["imgid"], "caption": s["raw"]} for s in sentences]
    return {"images": [{"id": image["imgid"]} for image in images], "annotations": captions}


def captions_of(annotations: dict) -> set[str]:
    return {" ".join(entry["caption"].split()) for entry in annotations["annotations"]}


def scored_by_coco(references: Path, results: Path) -> tuple[dict[str, str], dict[str, float]]:
    """The captions that pycocotools reads from a result file, and pycocoevalcap's scores of them."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(references))
        results_api = truth.loadRes(str(results))
        read = {str(photo): results_api.imgToAnns[photo][0]["caption"] for photo in results_api.getImgIds()}
        tokens = [
            PTBTokenizer().tokenize({i: coco.imgToAnns[i] for i in truth.getImgIds()}) for coco in (truth, results_api)
        ]
        bleu, _ = Bleu(4).compute_score(*tokens, verbose=0)
        scores = {f"bleu{order}": score for order, score in enumerate(bleu, 1)}
        scores |= {"rouge_l": Rouge().compute_score(*tokens)[0], "cider_d": Cider().compute_score(*tokens)[0]}
    return read, scores


@pytest.fixture
def quick(tmp_path_factory, monkeypatch):
    """A small METEOR, and a fixed constant sentence instead of a search. Yields the captions of each search."""
    searched = []

    def constant_sentence(references, *_):
        searched.append({caption for group in references for caption in group})
        return ConstantCaption("a dog", 0.0)

    hurry(monkeypatch)
    monkeypatch.setattr("src.reports.run_report.constant_sentence", constant_sentence)
    with contextlib.closing(small_meteor(tmp_path_factory.mktemp("meteor"))) as meteor:
        monkeypatch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)
        yield searched


@pytest.mark.slow
def test_karpathy_s_flickr8k_from_its_json_to_a_submission(shared_data, workplace, quick, write):
    """Official parts; the test part is scored against its own captions, here and by COCO's tools alike."""
    root = shared_data / "flickr8k"
    arguments = [
        f"data.root={root}",
        "data.format=karpathy",
        *TINY,
        "split.official=true",
        "task=caption",
        "train.epochs=1",
    ]
    for stage in STAGES:
        stage.main([*arguments, *(["--coco", "coco"] if stage is evaluate else [])])
    learned = {part: captions_of(official_captions(root, part)) for part in ("train", "val")}
    assert quick == [learned["train"], learned["train"] | learned["val"]], "searched for the validation and test part"
    score = json.loads((workplace / "runs" / "demo" / "score.json").read_text())
    for part, name in (("oof", "val"), ("test", "test")):
        truth, results = write(f"{name}.json", official_captions(root, name)), workplace / "coco" / f"{part}.json"
        with open(workplace / "runs" / "demo" / "predictions" / f"{part}.csv", encoding="utf-8", newline="") as file:
            predicted = {row["photo_id"]: row["caption"] for row in csv.DictReader(file)}
        read, scores = scored_by_coco(Path(truth), results)
        assert read == predicted and len(read) == 10
        assert {key: score[part]["caption"][key] for key in scores} == pytest.approx(scores, abs=1e-6)
        evaluate.main(["--predictions", str(results), "--references", truth, "--json", "alone.json", *TINY])
        assert json.loads(Path("alone.json").read_text())["caption"] == score[part]["caption"]
    with open("submissions/demo.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["img_name"]: row["comments"] for row in rows} == predicted and list(rows[0]) == ["img_name", "comments"]
    submit.main(["--check", "submissions/demo.csv", *arguments])
    Path("submissions/demo.csv").write_text("img_name,comments\n1,x\n")
    with pytest.raises(InputError, match="1 rows, not 10; 10 photos missing.*1 photos that are not in the test set: 1"):
        submit.main(["--check", "submissions/demo.csv", *arguments])


@pytest.mark.slow
def test_data_without_test_photos_is_scored_and_has_nothing_to_submit(shared_data, workplace, quick, capsys):
    root = shared_data / "coco_mini"
    arguments = [f"data.root={root}", "data.format=coco", *TINY, "split.holdout=0.1", "task=caption", "train.epochs=1"]
    for stage in STAGES:
        stage.main([*arguments, *(["--coco", "coco"] if stage is evaluate else [])])
    assert capsys.readouterr().out.endswith("submit: this data set has no test photos, so there is nothing to submit\n")
    assert not list((workplace / "submissions").iterdir())
    score = json.loads((workplace / "runs" / "demo" / "score.json").read_text())
    assert score["oof"]["caption"]["photos"] == 8 and score["test"] is None
    assert [path.name for path in (workplace / "coco").iterdir()] == ["oof.json"]
    photos = {image["id"] for image in json.loads((root / "annotations/captions_train2017.json").read_text())["images"]}
    assert {entry["image_id"] for entry in json.loads((workplace / "coco" / "oof.json").read_text())} < photos
    with pytest.raises(InputError, match="--coco writes the captions of a run"):
        evaluate.main(["--coco", "coco", "--predictions", "a.json", "--references", "b.json"])
