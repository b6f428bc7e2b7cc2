"""The reference of all settings: for --help, and as docs/settings.md (python -m src.settings.reference)."""

import textwrap

from src.settings.former_names import FORMER_KEYS, REMOVED
from src.settings.keys import Setting, all_settings, groups
from src.settings.yaml_files import as_text

_HEAD = """# Settings

Written by `python -m src.settings.reference > docs/settings.md` from the classes in `src/settings/`: change those.

Every command takes them as `key.sub=value`, or in a YAML file after `--config`. Later ones win: the defaults, the file
of `--config`, `--fold K`, the command line. What is marked † is not compared when a finished result is looked up: two
commands on one run may give it different values. It says where, how fast or how much is done, such as which fold.
"""


def _by_group() -> dict[str, list[Setting]]:
    """The settings by the dotted key of their group; "" holds those of none."""
    by_group: dict[str, list[Setting]] = {"": [], **{key: [] for key in groups()}}
    for setting in all_settings().values():
        by_group[setting.key.rpartition(".")[0]].append(setting)
    return by_group


def _about(group: str) -> str:
    return " ".join((groups()[group].__doc__ or "").split())


def help_text() -> str:
    """Every setting with its default as one writes it on the command line, its type and bounds, and its meaning."""
    lines = []
    for group, settings in _by_group().items():
        lines += [f"\n{group}: {_about(group)}"] if group and settings else []
        for setting in settings:
            text = f"{setting.description} ({setting.expected})"
            lines += [f"  {setting.key}={as_text(setting.default)}"]
            lines += textwrap.wrap(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines)


def markdown() -> str:
    """The text of docs/settings.md."""
    lines = [_HEAD]
    for group, settings in _by_group().items():
        if not settings:
            continue
        lines += [f"## {group}\n\n{_about(group)}\n" if group else "## On their own\n"]
        lines += ["| setting | type and bounds | default | what it does |", "|---|---|---|---|"]
        for setting in settings:
            mark = " †" * setting.runtime_only
            default = f"`{as_text(setting.default)}`"
            cells = f"`{setting.key}`{mark}", setting.expected, default, setting.description
            lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"]
        lines += [""]
    lines += ["## Former names\n", "| former | now |", "|---|---|"]
    lines += [f"| `{key}` | `{now}` |" for key, now in FORMER_KEYS.items()]
    lines += [f"| `{key}` | gone |" for key in REMOVED]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
