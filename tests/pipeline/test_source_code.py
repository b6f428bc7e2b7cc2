"""What is trained again after the source changed: what computes another result, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.pipeline import source_code
from tests.conftest import TINY
from tests.helpers.warm_python import start_stage

REPOSITORY = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns("__pycache__")


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A copy of src that is hashed in place of the real one."""
    shutil.copytree(REPOSITORY / "src", tmp_path / "src", ignore=IGNORED)
    shutil.copy2(REPOSITORY / "requirements.txt", tmp_path)
    monkeypatch.setattr(source_code, "__file__", str(tmp_path / "src" / "pipeline" / "source_code.py"))
    source_code.code_of.cache_clear()
    yield tmp_path / "src"
    source_code.code_of.cache_clear()


def code_of(stage: str) -> dict[str, str]:
    source_code.code_of.cache_clear()
    return source_code.code_of(stage)


def write(room: Path, text: str) -> None:
    (room / "example.py").write_text(text)


@pytest.fixture
def example(source, monkeypatch):
    """Whether another text of one file of a stage is other code."""
    (source / "data" / "example_stage.py").write_text("from src.data.example import compute\n")

    def differs(before: str, after: str) -> bool:
        write(source / "data", before)
        code = code_of("data.example_stage")
        assert "data/example.py" in code
        write(source / "data", after)
        return code_of("data.example_stage") != code

    return differs


HARMLESS = {
    "a comment and the layout": ("x = 1\n", "# why\nx  =  (1)\n"),
    "a docstring": ('def f():\n    """A."""\n    return 1\n', 'def f():\n    """B."""\n    return 1\n'),
    "no docstring": ('class K:\n    """A."""\n', "class K:\n    pass\n"),
    "a line that is printed": ("def f():\n    print('a')\n    return 1\n", "def f():\n    return 1\n"),
    "when it is printed": ("def f(a):\n    if a:\n        print(a)\n", "def f(a):\n    pass\n"),
    "an error message": ("raise ValueError('a')\n", "raise ValueError('b', 3) from None\n"),
    "a help text": ("p.add_argument('x', help='a')\n", "p.add_argument('x', help='b')\n"),
    "annotations": ("def f(a, *b, c=1): ...\ny = 2\n", "def f(a: int, *b: str, c: int = 1) -> int: ...\ny: int = 2\n"),
    "a picture": (
        "from src.plots.style import figure\nx = 1\n",
        "from src.plots.training_curves import draw_curves\nx = 1\ndraw_curves(x)\n",
    ),
    "an import for types": (
        "x = 1\n",
        "from typing import TYPE_CHECKING\nx = 1\nif TYPE_CHECKING:\n    import torch\n",
    ),
}
DIFFERENT = {
    "a number": ("x = 1\n", "x = 2\n"),
    "another error": ("raise ValueError('a')\n", "raise KeyError('a')\n"),
    "a default": ("def f(a=1): ...\n", "def f(a: int = 2): ...\n"),
    "a text that is no docstring": ("def f():\n    return 'a'\n", "def f():\n    return 'b'\n"),
    "what a condition does": ("def f(a):\n    if a():\n        print(a)\n", "def f(a):\n    pass\n"),
    "the order of fields": ("class K:\n    a: int\n    b: int\n", "class K:\n    b: int\n    a: int\n"),
    "a field's default": ("class K:\n    a: int = 1\n", "class K:\n    a: int = 2\n"),
    "what is imported": (
        "from src.data.table import save_table as f\n",
        "from src.data.table import load_table as f\n",
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_no_result_is_not_other_code(example, case):
    if case == "an import for types":  # the import of TYPE_CHECKING itself is a statement like any other
        before, after = HARMLESS[case]
        assert not example(f"from typing import TYPE_CHECKING\n{before}", after)
    else:
        assert not example(*HARMLESS[case])


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_may_change_a_result_is_other_code(example, case):
    assert example(*DIFFERENT[case])


EVERY_PYTHON = """
class K(B):
    a: int = 1

    def f(self, *, b=f"{1:{2}}{3!r:>{4}.{5}}"):
        return [f"", f"x{b}", lambda: (), {}]

"""
PYTHON_3_11 = "5a4768f30fac1688c6efce905ca902dde4d69309ab494f362436bdd68088fc61"


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_every_python_finds_the_same_hash(name):
    assert source_code._code_of(EVERY_PYTHON)[0] == PYTHON_3_11, "this Python"
    if not (other := shutil.which(name)) or subprocess.run([other, "-V"], capture_output=True).returncode:
        pytest.skip(f"no {name} here")
    command = f"from src.pipeline.source_code import _code_of; print(_code_of({EVERY_PYTHON!r})[0])"
    answer = subprocess.run([other, "-B", "-c", command], cwd=REPOSITORY, capture_output=True, text=True)
    assert answer.stdout == f"{PYTHON_3_11}\n", answer.stderr


def test_rooms_that_only_show_or_decide_do_not_count_and_all_others_do(source):
    code = code_of("train")
    rooms = {name.partition("/")[0] for name in code if "/" in name}
    assert rooms == {"base", "data", "models", "metrics", "decoding", "training", "inference"}
    assert "train.py" in code and "training/losses.py" in code and "models/recurrent.py" in code
    assert not {"base/errors.py", "base/locks.py"} & code.keys()
    assert {name.partition("/")[0] for name in code_of("demo.competition") if "/" in name} >= {"demo"}


def test_packages_count_where_results_depend_on_them(source):
    code, requirements = code_of("split"), source.parent / "requirements.txt"
    text = requirements.read_text()
    requirements.write_text(text + "another==1\n")
    assert code_of("split") == code
    requirements.write_text("another==1\n" + text)
    assert {name for name, sha in code_of("split").items() if code.get(name) != sha} == {"requirements.txt"}


def test_the_files_that_changed_are_named(source):
    before = code_of("split")
    for name in ("folds", "table"):
        path = source / "data" / f"{name}.py"
        path.write_text(path.read_text() + "\nx = 1\n")
    source_code.code_of.cache_clear()
    assert source_code.other_code(before, "split") == "the code of data/folds.py, data/table.py changed"
    assert source_code.other_code("0" * 64, "split") == "the code changed", "as older versions recorded it"
    assert source_code.other_code(code_of("split"), "split") == ""


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert text.count(before) >= 1, f"{path} has no {before}"
    path.write_text(text.replace(before, after, 1))


def python(folder: Path, *arguments: str) -> str:
    answer = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.stdout


def train(folder: Path, *arguments: str, code: int = 0) -> str:
    """What `python -m src.train` with the code in that folder prints, all of which it imports itself."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = start_stage(folder, "src.train", ["--fold=0", *arguments], variables, folder / "printed")
    printed = "".join(process.communicate(300))
    assert process.returncode == code, printed[-2000:]
    return printed


@pytest.mark.slow
def test_harmless_edits_train_nothing_again_and_another_loss_does(competition, tmp_path):
    shutil.copytree(REPOSITORY / "src", tmp_path / "src", ignore=IGNORED)
    shutil.copy2(REPOSITORY / "requirements.txt", tmp_path)
    source, settings = tmp_path / "src", [f"data.root={competition}", *TINY, "task=mos", "train.epochs=1"]
    assert "epoch 1/1" in train(tmp_path, *settings)
    caches = {path.name for path in (tmp_path / "runs" / "cache").iterdir()}

    edit(source / "plots" / "style.py", "import", "SIZE = 3\nimport")
    edit(source / "training" / "losses.py", '"""', '"""Other words. ')
    edit(source / "training" / "engine.py", "the loss is not finite", "the loss is no number")
    new_setting = 'another: int = 7\n    """Nothing yet."""\n    '
    for file, field in (("schema", "size: Annot"), ("schema", "folds: Annot"), ("training", "lr: NonNeg")):
        edit(source / "settings" / f"{file}.py", field, new_setting + field)
    assert "epoch" not in (printed := train(tmp_path, *settings)) and "up to date" in printed
    assert {path.name for path in (tmp_path / "runs" / "cache").iterdir()} == caches
    read = "from src.pipeline.trained_runs import load_run; s = load_run(['--fold=0'], 'caption')[0]"
    assert python(tmp_path, "-c", f"{read}; print(s.view.size, s.view.another, s.optim.another)") == "32 7 7\n"
    assert "view.another was 7, is 8" in train(tmp_path, *settings, "view.another=8", code=1)

    losses = source / "training" / "losses.py"
    doubled = "\n\n_once = mos_loss\n\n\ndef mos_loss(*arguments):\n    return 2 * _once(*arguments)\n"
    losses.write_text(losses.read_text() + doubled)
    printed = train(tmp_path, *settings)
    assert "the code of training/losses.py changed" in printed and "epoch 1/1" in printed
    assert (tmp_path / "runs" / "demo" / "fold-0.earlier").is_dir(), "what was trained with the other code is kept"
