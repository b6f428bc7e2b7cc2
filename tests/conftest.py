"""A tiny competition and settings that train in seconds, for tests that run whole stages."""

import contextlib
import gc
import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import pytest
from tqdm import tqdm

from tests.helpers.warm_python import PACKAGES

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests run at a time: more threads would wait for each other
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # and threads that wait would keep the others from their work

REPOSITORY = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = str(REPOSITORY)  # stages that tests start elsewhere find src

FORKED = [*PACKAGES, "tests.helpers.ranks", "src.training.fit", "src.plots.training_curves"]
FORKED += ["src.inference.fold_predictions", "src.data.loading"]
if "forkserver" in multiprocessing.get_all_start_methods():
    multiprocessing.get_context("forkserver").set_forkserver_preload(FORKED)
"""What the server of forked processes imports, once for all tests of a worker."""

# tqdm's own lock is shared by forked processes: one that a test kills while it draws its bar would stop all others
tqdm.set_lock(threading.RLock())

SHARED = Path(__file__).parents[2] / "shared" / "data"

TINY = [
    "view.size=32",
    "encoder.name=test_resnet",
    "encoder.pretrained=false",
    "encoder.frozen=false",
    "mos_head.hidden=0",
    "decoder.name=recurrent",
    "decoder.dropout=0.3",
    "decoder.embedding=16",
    "decoder.hidden=24",
    "vocabulary.minimum_count=2",
    "split.folds=2",
    "optim.lr=0.003",
    "loss.label_smoothing=0",
    "train.captions_per_photo=1",
    "train.epochs=2",
    "train.batch_size=16",
    "decoding.beam=2",
    "metric.bootstrap=100",
    "ensemble.captions=search",
    "predict.candidates=false",
    "run.jobs=1",
]


LONGEST_FIRST = [
    "stages/test_docs.py",
    "faults/test_stop.py",
    "faults/test_kill.py",
    "stages/test_configurations.py",
    "stages/test_offline.py",
    "stages/test_large_pipeline.py",
    "tuning/test_tune.py",
    "stages/test_pipeline.py",
    "tuning/test_judgement.py",
    "faults/test_random_damage.py",
    "training/test_distributed.py",
    "stages/test_ensemble.py",
    "serving/test_app.py",
    "faults/test_places.py",
]
"""Files that take longest. Each goes to one worker as a whole: late in the row it would leave the other idle."""


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what the tests have imported stays to the end: no collection need look through it


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


@pytest.fixture(scope="session")
def competition(tmp_path_factory) -> Path:
    """A demo competition of 60 training and 20 test photos."""
    from src.demo.competition import make_competition

    root = tmp_path_factory.mktemp("competition") / "data"
    make_competition(root, progress=False, train=60, test=20)
    return root


@pytest.fixture(scope="session")
def tiny_competition(tmp_path_factory) -> Path:
    """A demo competition of 30 training and 10 test photos, for tests to which its scores do not matter."""
    from src.demo.competition import make_competition

    root = tmp_path_factory.mktemp("tiny") / "data"
    make_competition(root, progress=False, train=30, test=10)
    return root


@pytest.fixture(scope="session")
def meteor(tmp_path_factory):
    """One small METEOR process for all tests."""
    from tests.helpers.small_meteor import small_meteor

    with contextlib.closing(small_meteor(tmp_path_factory.mktemp("meteor"))) as process:
        yield process


@pytest.fixture
def shared_meteor(meteor, monkeypatch):
    """That METEOR as the one process of this program."""
    monkeypatch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)
    return meteor


@pytest.fixture
def quick(meteor, monkeypatch) -> None:
    """Stages score by that METEOR, do not search for constant sentences, and do not draw."""
    from tests.helpers.small_meteor import quick_scores

    quick_scores(monkeypatch, meteor)


@pytest.fixture
def one_thread():
    """Torch computes with one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seeded(one_thread):
    """Torch computes with one thread and draws the same numbers in each test."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The matplotlib figures that are saved, in order, still saved as ever."""
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig

    def recorded(figure, *arguments, **named):
        figures.append(figure)
        return savefig(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", recorded)
    return figures


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory) -> Path:
    """A folder with a competition of nine photos that has gone through preprocess."""
    from tests.helpers.bad_input import preprocessed_competition

    return preprocessed_competition(tmp_path_factory.mktemp("preprocessed"))


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in; stages leave their files there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "submissions").mkdir()
    return tmp_path


@pytest.fixture
def competition_copy(preprocessed, workplace, monkeypatch) -> Path:
    """A copy of a preprocessed competition to work in."""
    from tests.helpers.bad_input import hurry

    hurry(monkeypatch)
    return Path(shutil.copytree(preprocessed, workplace, dirs_exist_ok=True))


@pytest.fixture
def shared_data() -> Path:
    """Real photos and captions; the test is skipped where they are not at hand."""
    if not SHARED.is_dir():
        pytest.skip(f"real data is not at hand in {SHARED}")
    return SHARED
