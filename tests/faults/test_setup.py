"""./run.sh sets up .venv and never harms another environment."""

import shutil
import subprocess

from tests.helpers.checkout import REPOSITORY


def test_an_environment_behind_a_link_is_not_emptied(tmp_path):
    for name in ("run.sh", "requirements.txt"):
        shutil.copy2(REPOSITORY / name, tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "installed").write_text("other packages")
    (tmp_path / ".venv").symlink_to("elsewhere")
    process = subprocess.run(["./run.sh"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert process.stderr.startswith("error: .venv is a link") and process.stderr.count("\n") == 1
    assert (tmp_path / "elsewhere" / "installed").read_text() == "other packages"
