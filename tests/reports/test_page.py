"""The page of a run: what it says, whatever the run has, whatever strangers wrote, however many photos there are."""

import html.parser
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.base.csv_files import read_rows, write_csv
from src.base.files import digest_of, write_json
from src.pipeline import outputs, runs
from src.reports.page_charts import calibration_chart, residual_chart, scatter_chart
from src.reports.page_parts import number, shown
from src.reports.run_page import run_page, write_report
from src.submission.log import log_submission
from tests.helpers.made_up_run import made_up_run

STRANGE = "<script>alert(1)</script> \"double\" 'single' & 한국어 \u200fעברית\u202e {{ 7 * 7 }}"
LARGEST = 5 * 2**20
VOID = {"meta", "link", "img", "br", "line", "path", "circle", "text"}


class Reader(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def headings(settings) -> list[str]:
    return [section.title for section in run_page(settings).sections]


def test_a_page_needs_no_script_and_nothing_outside_itself(tmp_path):
    path = write_report(made_up_run(tmp_path, 40, warnings=["captions have 2.1 words on average"]))
    text = path.read_text(encoding="utf-8")
    reader = Reader(text)
    assert not reader.named("script") and not reader.named("iframe")
    assert all(picture["alt"].strip() and picture["src"].startswith("data:image/") for picture in reader.named("img"))
    assert all(picture["role"] == "img" and picture["aria-label"].strip() for picture in reader.named("svg"))
    addresses = [a[key] for _, a in reader.tags for key in ("src", "href") if key in a]
    sections = {section["id"] for section in reader.named("section")}
    assert {address[1:] for address in addresses if address.startswith("#")} == sections
    assert all(address.startswith(("data:", "#")) for address in addresses) and "url(" not in text
    assert not [a for _, a in reader.tags for key in a if key.startswith("on")]
    assert len(reader.named("img")) == 72 and "captions have 2.1 words" in text, "six groups of 12 photos"
    assert "1 min 23 s" in reader.texts and "expected 0.11" in text and "expected 0.12" not in text
    assert text.index("Raise decoding.length_penalty") < text.index('id="leaderboard"')


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("both", ["Leaderboard", "MOS", "Captions", "Photos", "Training", "Data", "Origin"]),
        ("mos", ["Leaderboard", "MOS", "Photos", "Training", "Data", "Origin"]),
        ("caption", ["Leaderboard", "Captions", "Photos", "Training", "Data", "Origin"]),
    ],
)
def test_what_a_run_does_not_have_is_left_out(tmp_path, task, expected):
    settings = made_up_run(tmp_path, 30, task=task)
    assert headings(settings) == expected
    text = write_report(settings).read_text(encoding="utf-8")
    assert ("Captions by measure" in text) == (task != "mos") and ("Calibration" in text) == (task != "caption")
    if task != "mos":  # a score of an earlier version has no measures of the baseline
        scores = json.loads(runs.score_path(runs.run_folder(settings)).read_text())
        del scores["oof"]["baseline"]["measures"]
        write_json(runs.score_path(runs.run_folder(settings)), scores)
    tuned = runs.tuning_folder(runs.run_folder(settings))
    header = ("trial", "state", "mean score", "optim.lr", "reason")
    write_csv(tuned / "trials.csv", header, [[0, "complete", 0.5, 0.1, ""], [1, "failed", "", 9, "out of memory"]])
    write_json(tuned / "judge.json", {"verdict": "trial 0 won"})
    (tuned / "best.yaml").write_text("run.name: made up\noptim.lr: 0.5\n")
    assert headings(settings) == expected, "a search whose winner is not used"
    (tuned / "best.yaml").write_text(f"run.name: made up\noptim.lr: {settings.optim.lr}\n")
    write_json(runs.marker_of(tuned), {"seconds": 125.0})
    assert headings(settings) == [*expected[:-1], "Tuning", "Origin"]
    assert "The search took 2 min 5 s." in write_report(settings).read_text(encoding="utf-8")
    assert "Trial 0 won." in write_report(settings).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "winner", "used"),
    [
        ("both", "run.jobs: 2\ndecoding.beam: 5\nmetric.bootstrap: 200\nensemble.mos: network", True),
        ("both", "encoder.frozen: false", False),
        ("mos", "self_critical.from_epoch: 2", False),
        ("mos", "optim.lr: fast", False),
    ],
    ids=["what training does not read", "another network", "contradictory", "no number"],
)
def test_a_search_is_told_of_where_the_run_is_trained_as_it_found(tmp_path, task, winner, used):
    settings = made_up_run(tmp_path, 12, task=task)
    tuned = runs.tuning_folder(runs.run_folder(settings))
    write_csv(tuned / "trials.csv", ("trial", "mean score", "optim.lr"), [[0, 0.5, settings.optim.lr]])
    (tuned / "best.yaml").write_text(f"run.name: made up\noptim.lr: {settings.optim.lr}\ntune.trials: 0\n")
    assert "Tuning" in headings(settings)
    (tuned / "best.yaml").write_text(f"run.name: elsewhere\n{winner}\ntune.trials: 0\n")
    assert ("Tuning" in headings(settings)) == used


def test_what_strangers_wrote_is_shown_as_text(tmp_path):
    strange = [STRANGE, "plain", "x" * 5000, "tab\tnull\0bell\a", "</bdi></table><img src=http://x.y/z>"]
    settings = made_up_run(tmp_path, 12, names=[f"{i}{text}" for i, text in enumerate(strange)], captions=strange)
    reader = Reader(write_report(settings).read_text(encoding="utf-8"))
    assert not reader.named("script") and all(p["src"].startswith("data:") for p in reader.named("img"))
    assert STRANGE in reader.texts and f"0{STRANGE}" in reader.texts
    assert "tab null�bell�" in reader.texts and "</bdi></table><img src=http://x.y/z>" in reader.texts
    assert max(len(text.strip()) for text in reader.texts if "xxx" in text) <= 300
    assert shown("\ud800 half") == "� half"


def test_equal_files_give_equal_bytes_and_leave_the_page_alone(tmp_path):
    settings = made_up_run(tmp_path, 20)
    path = write_report(settings)
    first, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert write_report(settings).stat().st_mtime_ns == changed
    path.unlink()
    assert write_report(settings).read_bytes() == first
    assert not [p for p in path.parent.iterdir() if p.name.endswith(".tmp")]


def test_the_last_run_is_the_latest_before_on_the_same_photos(tmp_path):
    settings = made_up_run(tmp_path, 20)
    run, root = runs.run_folder(settings), Path(settings.run.root)
    photos = outputs.photos(settings).folder
    record: dict = {"settings": {}, "inputs": {}, "code": {}, "outputs": {}}
    for folder, table in ((photos, "a"), (photos.with_name("photos-other"), "b")):
        write_json(runs.marker_of(folder), record | {"outputs": {"photos.jsonl": {"sha256": table}}})
    score = json.loads(runs.score_path(run).read_text())
    for name, table, moment in (("made up", "a", 900), ("older", "a", 100), ("<newer>", "a", 500), ("else", "b", 800)):
        score["oof"]["mos"]["score"] = moment / 1000
        write_json(runs.score_path(root / name), score)
        inputs = {"photos": digest_of({"photos.jsonl": table})}
        write_json(runs.score_marker(root / name), record | {"inputs": inputs})
        os.utime(runs.score_marker(root / name), (moment, moment))
    facts = {fact.name: fact for fact in run_page(settings).verdicts[0].facts}
    assert facts["last run,"].run == "<newer>" and facts["last run,"].value == "0.5000 (+0.4000)"
    log = Path(settings.run.submissions) / "log.csv"
    header = ("time", "run", "sha256", "local_mos", "local_caption", "leaderboard")
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(700))
    write_csv(log, header, [[written, "made up", "0", "0.7000", "", ""], ["yesterday", "older", "1", "0.1", "", ""]])
    facts = {fact.name: fact for fact in run_page(settings).verdicts[0].facts}
    assert facts["last submission"].value == "0.7000 (+0.2000)"


LOG = "time,run,sha256,local_mos,local_caption,leaderboard\n2001-02-03 04:05:06,made up,0,0.7000,,\n"


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (LOG.encode("utf-8-sig"), "0.7000 (+0.1000)"),
        (LOG.replace(",\n", ",최고\n").encode("cp949"), "0.7000 (+0.1000)"),
        (f"{LOG}2002-02-03 04:05:06,made up,1,'0,9',,\n".replace("'", '"').encode(), "0.7000 (+0.1000)"),
        (f"{LOG}2002-02-03 04:05:06,made up\n".encode(), "0.7000 (+0.1000)"),
        (f"{LOG}2002-02-03 04:05:06,made up,1,0.6,,,,\n".encode(), "0.6000 (+0.2000)"),
        (LOG.replace(",", ";").encode(), None),
        (b"", None),
    ],
    ids=["byte order mark", "CP949", "decimal comma", "cut off", "further cells", "semicolons", "empty"],
)
def test_a_log_as_users_save_it_breaks_no_page(tmp_path, log, told):
    settings = made_up_run(tmp_path, 20)
    write_json(runs.score_marker(runs.run_folder(settings)), {"settings": {}, "inputs": {}, "code": {}, "outputs": {}})
    file = Path(settings.run.submissions) / "log.csv"
    file.parent.mkdir()
    file.write_bytes(log)
    facts = {fact.name: fact.value for fact in run_page(settings).verdicts[0].facts}
    assert facts.get("last submission") == told
    submission = file.with_name("made up.csv")
    submission.write_text("one")
    log_submission(file, submission, "made up", {"mos": 0.5, "caption": None})
    assert file.read_bytes().startswith(log) and write_report(settings).is_file()


def test_warnings_say_what_to_do(tmp_path):
    same, broken = "all 40 photos have the same caption", "30% of the captions break off, at a word such as 'with'"
    settings = made_up_run(tmp_path, 40, warnings=[f"{same}: 'a picture'", broken])
    run, photos = runs.run_folder(settings), outputs.photos(settings).folder
    write_csv(
        runs.rejected_path(run), ("where", "photo_id", "path", "reason"), [["train.csv", "x", "<x>.jpg", "cut off"]]
    )
    with open(outputs.ensemble(settings).folder / "test.csv", "a") as file:
        file.write("t1,5,a thing,unreadable photo\n")
    shift = {"shifted": True, "overall": {"auc": 0.9}, "test_like": {"score": 0.5}}
    write_json(run / "covariate_shift.json", shift)
    digests = np.load(photos / "digests.npy")
    digests[1], digests[50] = digests[0], digests[4]  # folds 1 and 0; a test photo
    np.save(photos / "digests.npy", digests)
    cautions = run_page(settings).cautions
    assert all(caution.advice.endswith(".") for caution in cautions)
    told = [caution.what for caution in cautions]
    assert told[0] == same and cautions[0].quote == "a picture", "as it is, not as Python writes it"
    assert told[1] == broken and not cautions[1].quote
    for words in ("1 photos are in the test part", "1 photos occur in more than one fold", "AUC 0.900",
                  "1 rows or photos was left out", "1 test photos could not be read"):  # fmt: skip
        assert any(words in what for what in told), (words, told)
    assert "cut off" in write_report(settings).read_text(encoding="utf-8")


def test_a_photo_scored_that_every_network_has_learned_is_a_leak(tmp_path):
    settings = made_up_run(tmp_path, 40)
    oof = outputs.ensemble(settings).folder / "oof.csv"
    rows = [row.cells for row in read_rows(oof, ("photo_id", "fold"))]
    write_csv(oof, list(rows[0]), [list(row.values()) for row in rows if row["fold"] == "0"])
    digests = np.load(outputs.photos(settings).folder / "digests.npy")
    assert not any("more than one fold" in caution.what for caution in run_page(settings).cautions)
    digests[1] = digests[0]  # photo 1 is in no fold now
    np.save(outputs.photos(settings).folder / "digests.npy", digests)
    assert any("1 photos occur in more than one fold" in caution.what for caution in run_page(settings).cautions)


def test_charts_tell_the_figures_that_they_draw():
    truth = np.array([1.0, 2, 3, 4])
    assert "mean +0.500" in residual_chart(truth - 0.5, truth).text
    assert "1.00 and 1.00, 2.00 and 2.00" in calibration_chart(truth, truth).text
    constant = np.full(4, 2.5)
    for chart in (scatter_chart, residual_chart, calibration_chart):
        assert "nan" not in chart(constant, truth).svg
    many = np.linspace(1, 9, 54_662)
    assert len(scatter_chart(many, many).svg) < 30_000, "counted in cells"
    assert number(-0.00001, "+.3f") == "0.000" and number(-0.5, "+.3f") == "−0.500"


MEASURE = """
import resource, sys, time
from pathlib import Path
from tests.helpers.made_up_run import made_up_run
from src.reports.run_page import write_report
settings = made_up_run(Path(sys.argv[1]), int(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
path = write_report(settings)
print(path.stat().st_size, time.monotonic() - began)
"""
PEAK = """
import resource, sys
from src.reports.run_page import write_report
from src.settings.load import load
from src.pipeline import resolved
settings = resolved.tuned(load(sys.argv[1:], "evaluate", "")[0])
path = write_report(settings)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def python(code: str, *arguments: object) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.slow
def test_a_large_data_set_takes_a_minute_and_no_more_memory_or_space(tmp_path):
    peaks = {}
    for photos in (2_000, 54_662):
        root = tmp_path / str(photos)
        size, seconds = python(MEASURE, root, photos)
        assert int(size) < LARGEST and float(seconds) < 60
        places = [f"data.root={root / 'data'}", f"run.root={root / 'runs'}", f"run.submissions={root / 'submissions'}"]
        peaks[photos] = int(python(PEAK, *places, "tune.trials=0", "run.name=made up")[0])
        print(photos, size, seconds, peaks[photos])
    assert peaks[54_662] - peaks[2_000] < 40, peaks
