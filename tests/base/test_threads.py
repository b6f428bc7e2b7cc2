"""Threads of OpenMP that wait do not spin, unless the user wants them to."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("given, used", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_wait_policy_is_set_before_torch_is_loaded(given, used):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": given} if given else {})
    child = "import os; print('child', os.environ['OMP_WAIT_POLICY'])"
    code = f"import src.train, torch, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    lines = [line for line in answer.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert lines and all(f"'{used}'" in line for line in lines), "as the library says that is loaded with torch"
    assert answer.stdout.upper() == f"CHILD {used}\n"
