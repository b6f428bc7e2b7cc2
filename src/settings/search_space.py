"""What tune.space may hold: for each setting a range or a list of choices, as text that becomes typed values."""

import contextlib
from collections.abc import Callable
from typing import Any

from src.settings.yaml_files import InvalidYaml, as_text, read_tree, refuse

Typed = Callable[[str, str, str], Any]
"""The value of a setting, given its key, the text, and where that stands."""
_FIXED = {
    "data": "the data",
    "split": "the photos that it is judged by",
    "metric": "the score itself",
    "predict": "nothing before predict",
    "ensemble": "nothing before ensemble",
    "run": "where a run lives",
    "task": "what is scored",
    "parallel": "no result",
    "tune": "the search itself",
    "train.fold": "the photos that it is judged by",
    "train.epochs": "the budget, which tune.epochs gives",
}
"""Settings that cannot be searched, and what they determine."""


def read_space(text: str, origin: str, typed: Typed) -> dict[str, dict] | None:
    """The search space written in `text`; each bound and choice is typed by `typed(key, text, origin)`.

    Refuses, in one line, anything that is not a range or choices, unknown settings, and values that the setting itself
    would refuse (which `typed` does).
    """
    where = f"{origin}: tune.space"
    try:
        tree = read_tree(text)
    except InvalidYaml as error:
        refuse(f"{where}: {error}")
    if tree is None:
        return None
    if not isinstance(tree, dict):
        refuse(f"{where}={text}: expected {{SETTING: {{low: …, high: …}}, SETTING: {{choices: […]}}}}")
    return {str(key): _entry(str(key), entry, where, typed) for key, entry in tree.items()}


def _entry(key: str, entry: Any, where: str, typed: Typed) -> dict[str, Any]:
    for fixed, what in _FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            refuse(f"{where}: {key} cannot be searched: it determines {what}")
    names = set(entry) if isinstance(entry, dict) else set()
    if names == {"choices"}:
        return {"choices": _choices(key, entry["choices"], where, typed)}
    if not {"low", "high"} <= names or names - {"low", "high", "step", "log"}:
        refuse(f"{where}: {key}: expected {{low: …, high: …}} with step: … or log: true, or {{choices: […]}}")
    return _range(key, entry, where, typed)


def _choices(key: str, choices: Any, where: str, typed: Typed) -> list:
    if not isinstance(choices, list):
        refuse(f"{where}: {key}: choices={as_text(choices)}: expected a list such as [lstm, gru]")
    values = [typed(key, as_text(value), f"{where}, choices") for value in choices]
    if len(values) < 2 or any(values.count(value) > 1 for value in values):
        refuse(f"{where}: {key}: choices={as_text(values)}: expected two different values or more")
    return values


def _range(key: str, entry: dict, where: str, typed: Typed) -> dict[str, Any]:
    bounds = {name: typed(key, as_text(entry[name]), f"{where}, {name}") for name in ("low", "high")}
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in bounds.values()):
        refuse(f"{where}: {key} is no number; write {{choices: […]}}")
    low, high = bounds["low"], bounds["high"]
    if low >= high:
        refuse(f"{where}: {key}: low={low} is not below high={high}")
    log = as_text(entry.get("log", "false"))
    if log not in ("true", "false") or (log == "true" and low <= 0):
        refuse(f"{where}: {key}: log={log}: expected true or false, and true only where low is above 0")
    bounds |= {"log": True} if log == "true" else {}
    if "step" in entry:
        step = as_text(entry["step"])
        with contextlib.suppress(ValueError):
            bounds["step"] = type(low)(step)
        if log == "true" or not 0 < bounds.get("step", 0) < float("inf"):
            refuse(f"{where}: {key}: step={step}: expected a number above 0, and none where log is true")
    return bounds
