"""Archives that strangers upload."""

import io
import os
import random
import zipfile
from pathlib import Path

import pytest

from src.base.errors import InputError
from src.serving import uploads
from src.serving.uploads import photos_of, removed


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_an_archive_stands_for_what_is_in_it(tmp_path):
    members = {"a/사진 <1>.jpg": b"one", "b.png": b"two", "__MACOSX/._b.png": b"rubbish"}
    other = tmp_path / "own.jpg"
    other.write_bytes(b"three")
    (inside := tmp_path / "inside").mkdir()
    paths, names = photos_of([archive(tmp_path / "x.zip", members), other], inside)
    assert names == ["a/사진 <1>.jpg", "b.png", "own.jpg"]
    assert [path.read_bytes() for path in paths] == [b"one", b"two", b"three"]
    assert all(path.parent == inside for path in paths[:2])


def test_photos_of_two_archives_stay_apart(tmp_path):
    both = [archive(tmp_path / f"{name}.zip", {f"{name}.jpg": name.encode()}) for name in "ab"]
    (inside := tmp_path / "inside").mkdir()
    paths, names = photos_of(both, inside)
    assert names == ["a.jpg", "b.jpg"] and [path.read_bytes() for path in paths] == [b"a", b"b"]


@pytest.mark.parametrize(
    "name", ["../../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "..\\out.jpg", "C:\\out.jpg", "."]
)
def test_an_archive_with_a_name_that_leads_out_is_refused(name, tmp_path):
    (inside := tmp_path / "inside").mkdir()
    upload = archive(tmp_path / "x.zip", {"fine.jpg": b"1", name: b"2"})
    with pytest.raises(InputError, match="leads out of the archive"):
        photos_of([upload], inside)
    assert not list(inside.iterdir()) and {path.name for path in tmp_path.iterdir()} == {"x.zip", "inside"}


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "UNPACKED_MEGABYTES", 1)
    upload = archive(tmp_path / "x.zip", {f"{i}.jpg": bytes(600_000) for i in range(2)})
    assert upload.stat().st_size < 10_000
    with pytest.raises(InputError, match="1.jpg: the archive holds more"):
        photos_of([upload], tmp_path)


def test_a_damaged_archive_is_said_so(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.jpg", os.urandom(1000))
    content = bytearray(buffer.getvalue())
    content[100] ^= 255
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match="the archive cannot be read: Bad CRC"):
        photos_of([tmp_path / "x.zip"], tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_damage_to_an_archive_is_more_than_a_line(method, tmp_path):
    """Whichever byte is another: one line, or an archive that can be read all the same."""
    buffer, refused = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("é.jpg", random.Random(0).randbytes(100) * 3)
    for place in range(len(buffer.getvalue())):
        content = bytearray(buffer.getvalue())
        content[place] ^= 255
        (tmp_path / "x.zip").write_bytes(content)
        try:
            photos_of([tmp_path / "x.zip"], tmp_path)
        except InputError as error:
            refused += "the archive cannot be read" in str(error)
    assert refused > 100


def test_uploads_are_removed_whatever_happens(tmp_path):
    (path := tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError), removed([path]):
        raise InputError("no")
    assert not path.exists()
