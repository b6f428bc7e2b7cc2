"""Files that are whole or absent, locks, and knowing what is up to date."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.base.errors import InputError
from src.base.files import existing_folder, replacing, require_writable, write_text
from src.base.locks import lock
from src.pipeline import outputs, source_code
from src.pipeline.artefacts import Artefact, making, outdated, tree_signature
from src.settings.schema import SplitSettings

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def artefact(tmp_path):
    folder = tmp_path / "cache" / "thing"
    return Artefact("split", folder, folder / "done.json", {"a": 1}, {"x": "1"}, shared=True)


def make(artefact, fresh=False, text="hello"):
    with making(artefact, fresh) as work:
        if work is None:
            return False
        write_text(work.folder / "out.txt", text)
        work.outputs += ["out.txt"]
    return True


def other(artefact, **changes):
    return Artefact(**{**artefact.__dict__, **changes})


def test_an_artefact_is_made_once_until_something_changes(artefact, capsys):
    assert make(artefact) and not make(artefact)
    assert "up to date" in capsys.readouterr().out
    assert "a was 1, is 2" in outdated(other(artefact, settings={"a": 2}))
    assert "its input changed (x)" in outdated(other(artefact, inputs={"x": "2"}))
    assert make(artefact, fresh=True)
    (artefact.folder / "out.txt").write_text("hallo")
    assert "was changed" in outdated(artefact)
    (artefact.folder / "out.txt").unlink()
    assert "is missing" in outdated(artefact)
    assert make(artefact) and not outdated(artefact)


def test_other_code_counts_only_where_asked(artefact, monkeypatch):
    make(artefact)
    monkeypatch.setattr(source_code, "code_of", lambda stage: {"split.py": "other"})
    assert outdated(artefact).startswith("the code of ") and outdated(artefact).endswith(" changed")
    assert not outdated(artefact, code=False)


def test_a_failed_build_leaves_nothing_under_the_real_name(artefact):
    with pytest.raises(RuntimeError), making(artefact) as work:
        write_text(work.folder / "out.txt", "half")
        raise RuntimeError
    assert not artefact.folder.exists() and outdated(artefact) == "not made yet"
    with making(artefact) as work:
        assert (work.folder / "out.txt").read_text() == "half", "the next try can go on from it"
        work.outputs += ["out.txt"]
    assert not outdated(artefact)


@pytest.mark.parametrize("moved", [0, 1])
def test_what_is_whole_when_a_build_is_killed_is_gone_on_with(artefact, monkeypatch, moved):
    make(artefact, text="old")
    replace, renames = os.replace, []

    def killed(old, new):
        if Path(new).parent == artefact.folder.parent:
            renames.append(new)
            if len(renames) > moved:
                raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        make(artefact, fresh=True)
    artefact.folder.exists() and (artefact.folder / "out.txt").unlink()
    with making(artefact) as work:
        assert (work.folder / "out.txt").read_text() == "hello"
        work.outputs += ["out.txt"]
    assert not outdated(artefact)
    assert sorted(path.name for path in artefact.folder.iterdir()) == ["done.json", "out.txt"]


def test_notes_for_the_next_try_are_gone_once_a_build_is_moved_in(artefact):
    with making(artefact) as work:
        for name in ("out.txt", "saved.json"):
            write_text(work.folder / name, "1")
        work.outputs, work.notes = ["out.txt"], ["saved.json"]
    assert sorted(path.name for path in artefact.folder.iterdir()) == ["done.json", "out.txt"]
    assert list(artefact.record()["outputs"]) == ["out.txt"] and not outdated(artefact)


def test_tree_signature_leaves_out_what_systems_and_editors_leave_behind(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").touch()
    before = tree_signature(tmp_path)
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "desktop.ini", ".~lock.train.csv#", ".nfs000001", "thumbs.db"):
        (tmp_path / "train" / name).write_text("x")
    tree_signature.cache_clear()
    assert tree_signature(tmp_path) == before
    (tmp_path / "train" / "nfs.jpg").touch()
    tree_signature.cache_clear()
    assert tree_signature(tmp_path) != before


def test_the_nearest_folder_of_a_drive_that_does_not_exist_is_the_drive(monkeypatch):
    path = Path("a", "b").absolute()
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert existing_folder(path) == Path(path.anchor)

    def missing(dir):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", missing)
    with pytest.raises(InputError, match=r"cannot be written \(.*No such file or directory\)"):
        require_writable(path, "run.root")


def test_tree_signature_sees_every_file_through_links_and_survives_a_loop(tmp_path):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    root.mkdir(), elsewhere.mkdir()
    (elsewhere / "a.jpg").write_bytes(b"1")
    (root / "train").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)
    seen = []

    def note():
        tree_signature.cache_clear()
        seen.append(tree_signature(root, root / "demo"))

    note()
    (elsewhere / "a.jpg").write_bytes(b"22")
    note()
    os.utime(elsewhere / "a.jpg", ns=(0, 5))
    note()
    (elsewhere / "b.jpg").symlink_to("nowhere")
    (root / "demo").mkdir()
    (root / "demo" / "x").write_text("x")
    note()
    assert len(set(seen)) == 3 and seen[2] == seen[3]


def test_replacing_keeps_the_old_file_where_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def hold(folder) -> subprocess.Popen:
    code = (
        f"from pathlib import Path; from src.base.locks import lock; import time\n"
        f"with lock(Path({str(folder)!r}), 'train', wait=False):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    holder = hold(tmp_path / "fold-0")
    try:
        with (
            pytest.raises(InputError, match=rf"in use by process {holder.pid} on .* \(train, since"),
            lock(tmp_path / "fold-0", "train", wait=False),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock(tmp_path / "fold-0", "train", wait=False):
        pass


def test_a_waiting_process_goes_on_when_the_holder_is_gone(tmp_path, capsys):
    holder = hold(tmp_path / "shared")
    began = time.monotonic()
    os.kill(holder.pid, signal.SIGSTOP)
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {holder.pid}"])
    with lock(tmp_path / "shared", "preprocess", wait=True):
        assert time.monotonic() - began > 0.5
    assert "waiting for process" in capsys.readouterr().out
    holder.wait()


def test_a_setting_that_a_record_lacks_had_its_default_and_one_that_is_gone_is_ignored(artefact):
    make(other(artefact, settings={"view.size": 64, "gone": 1}))
    assert not outdated(other(artefact, settings={"view.size": 64, "split.folds": SplitSettings().folds}))
    assert outdated(other(artefact, settings={"view.size": 64, "split.folds": 9})) == "split.folds was 4, is 9"


def test_a_cache_s_key_is_made_of_what_differs_from_the_defaults():
    assert outputs.differing({"view.size": 64, "split.folds": SplitSettings().folds}) == {"view.size": 64}
