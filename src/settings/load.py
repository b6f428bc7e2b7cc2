"""The one door to the settings: defaults, then a YAML file, then --fold, then key.sub=value from the command line."""

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from src.base.files import write_text
from src.settings.former_names import FORMER_KEYS, REMOVED, present_name
from src.settings.keys import all_settings, assemble, contradiction, defaults, flatten, groups
from src.settings.planning import planned_keys
from src.settings.schema import Settings
from src.settings.search_space import read_space
from src.settings.tuning import DEMO_SPACE
from src.settings.yaml_files import as_text, read_yaml, refuse

Override = tuple[str, str, str]
AddOptions = Callable[[argparse.ArgumentParser], None]
_WITHOUT_FOLD = ("compare",)
_WITHOUT_FRESH = ("compare", "caption", "app")
"""Commands that work anew each time, so that there is no --fresh."""
_FIXED = ("run.name", "run.minutes", "run.kept", "train.fold", "tune.")  # in a run that is made again


def _option_parser(stage: str, description: str, options: AddOptions | None) -> argparse.ArgumentParser:
    """The parser of the stage's own options; `--help` is answered by `load`, which knows the settings too."""
    parser = argparse.ArgumentParser(
        prog=f"python -m src.{stage}",
        usage=f"python -m src.{stage} [options] [key.sub=value ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and exit")
    parser.add_argument("--config", metavar="FILE", help="YAML with the settings that differ from the defaults")
    parser.set_defaults(fold=None, fresh=False)
    if stage not in _WITHOUT_FOLD:
        parser.add_argument("--fold", metavar="K", help="the same as train.fold=K: work on this fold only")
    if stage not in _WITHOUT_FRESH:
        parser.add_argument("--fresh", action="store_true", help="make what this stage makes again, from the start")
    if options:
        options(parser)
    return parser


def _split_arguments(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Options of the stage, and the settings among the arguments, written key=value, --key=value or --key value."""
    options, pairs, rest, keys = [], [], list(argv), {*all_settings(), *FORMER_KEYS, *REMOVED}
    for token in rest:
        if any("\ud800" <= letter <= "\udfff" for letter in token):  # what Python makes of other bytes
            refuse(f"command line: {token} is not UTF-8; rename that file or folder, or give the text in UTF-8")
    while rest:
        token = rest.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--") and key in keys and not equals:
            pairs.append((key, rest.pop(0) if rest else refuse(f"command line: {token} needs a value")))
        # a photo's name may be a=b
        elif equals and (key in keys or not (token.startswith("-") or os.path.exists(token))):
            pairs.append((key, value))
        else:
            options.append(token)
    return options, pairs


def _parse_options(parser: argparse.ArgumentParser, options: list[str]) -> argparse.Namespace:
    try:
        parsed, unknown = parser.parse_known_intermixed_args(options)
    except argparse.ArgumentError as error:
        refuse(f"command line: {error}")
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0], flags, 1)
        hint = f"did you mean {near[0]}?" if near else "settings are written key.sub=value; --help lists all"
        refuse(f"command line: {unknown[0]} is not understood; {hint}")
    return parsed


def _value(key: str, text: str, origin: str) -> Any:
    """The text as a value of that setting. Refuses unknown and former names, and what is no such value."""
    if now := present_name(key, text):
        refuse(f"{origin}: {key}={text} is {now} now; write that")
    if key in REMOVED:
        refuse(f"{origin}: {key}={text}: that setting is gone; leave it out")
    settings = all_settings()
    if key in groups():
        inner = [k for k in settings if k.startswith(f"{key}.")]
        refuse(f"{origin}: {key} is a group of settings, got {text!r}; set one of {', '.join(inner)}")
    if key not in settings:
        refuse(f"{origin}: {_unknown(key)}")
    try:
        value = settings[key].value_of(text)
    except ValueError as error:
        refuse(f"{origin}: {key}={text}: {error}")
    for name in value or () if key == "run.kept" else ():
        if name not in {*settings, *FORMER_KEYS, *REMOVED}:  # a run of an earlier version may name its own
            refuse(f"{origin}: {key}: {_unknown(name)}")
    return value


def _unknown(key: str) -> str:
    settings = all_settings()
    near = difflib.get_close_matches(key, settings, 1, 0.5)
    near = near or [k for k in settings if k.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"unknown setting {key}; " + (f"did you mean {near[0]}?" if near else "--help lists all settings")


def build(overrides: Sequence[Override], base: Mapping[str, Any] | None = None) -> Settings:
    """Settings from (key, text, origin); later ones win. Refuses, in one line, unknown, wrong or contradictory ones.

    base: values by dotted key of all that is not given, in place of the defaults.
    """
    values = dict(base or {})
    latest = {key: (text, origin) for key, text, origin in overrides}
    space = latest.pop("tune.space", None)
    values |= {key: _value(key, text, origin) for key, (text, origin) in latest.items()}
    if space:

        def typed(key: str, text: str, origin: str) -> Any:
            """A value of the search space, which must do with all other settings."""
            others = {k: v for k, v in values.items() if not k.startswith("tune.")}
            return flatten(build([(key, text, origin)], others))[key]

        values["tune.space"] = read_space(*space, typed)
    try:
        return assemble(values)
    except ValueError as error:
        refuse(str(error))


def narrow_search(settings: Settings, default: dict[str, dict], line: Sequence[Override]) -> Settings:
    """The settings, of whose search space (or the `default` one) the command line takes out what it gives itself.

    A search space on the command line stands as it is.
    """
    keys = {key for key, _, _ in line}
    space = default if settings.tune.space is None else settings.tune.space
    if "tune.space" in keys or not keys & space.keys():
        return settings
    left = {key: entry for key, entry in space.items() if key not in keys}
    try:
        return dataclasses.replace(settings, tune=dataclasses.replace(settings.tune, space=left))
    except ValidationError as error:
        refuse(contradiction(error))


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a command line says. Settings are (key, text, origin), later ones win."""

    options: argparse.Namespace
    """The stage's own options, --config and --fresh."""
    config: list[Override]
    """The settings of the file of --config."""
    line: list[Override]
    """--fold, and the settings of the command line itself."""

    @property
    def name(self) -> list[Override]:
        """run.name as it follows from the name of the file of --config, where there is one."""
        file = self.options.config
        return [("run.name", Path(file).stem, f"--config {file}")] if file else []


def read_arguments(
    argv: Sequence[str] | None, stage: str, description: str = "", options: AddOptions | None = None
) -> Arguments:
    """Read a command line without judging the settings on it. Prints the help and exits 0 for --help.

    Raises ConfigError (exit code 2) after one line for what is no option of the stage, and for a file of --config that
    cannot be read.
    """
    parser = _option_parser(stage, description, options)
    rest, overrides = _split_arguments(sys.argv[1:] if argv is None else argv)
    parsed = _parse_options(parser, rest)
    if parsed.help:
        from src.settings.reference import help_text

        print(f"{parser.format_help()}\nsettings, written key.sub=value:\n\n{help_text()}")
        raise SystemExit(0)
    config: list[Override] = []
    if parsed.config is not None:
        config = [(key, text, parsed.config) for key, text in read_yaml(parsed.config) if REMOVED.get(key) != text]
    fold = [("train.fold", parsed.fold, "--fold")] if parsed.fold is not None else []
    return Arguments(parsed, config, [*fold, *((key, text, "command line") for key, text in overrides)])


def load(
    argv: Sequence[str] | None,
    stage: str,
    description: str = "",
    options: AddOptions | None = None,
) -> tuple[Settings, argparse.Namespace]:
    """Settings and the stage's own options from a command line.

    Order, later wins: the defaults, the file of --config, --fold K, key.sub=value; wherever on the line they stand.
    Prints the help and exits 0 for --help. Raises ConfigError (exit code 2) after one line for anything wrong.
    """
    arguments = read_arguments(argv, stage, description, options)
    settings = build([*arguments.name, *arguments.config, *arguments.line])
    settings = narrow_search(settings, DEMO_SPACE, arguments.line)
    return _keep_overrides(settings, [*arguments.config, *arguments.line]), arguments.options


def _keep_overrides(settings: Settings, overrides: Sequence[Override]) -> Settings:
    """The settings, of which run.minutes leaves those as they are that are given, where run.kept does not say which."""
    if settings.run.minutes is None or settings.run.kept is not None:
        return settings
    kept = sorted({key for key, _, _ in overrides} & planned_keys(flatten(settings)))
    return dataclasses.replace(settings, run=dataclasses.replace(settings.run, kept=kept))


def moved(settings: Settings, overrides: Sequence[Override]) -> Settings:
    """The settings with those `overrides` that say where things lie and how the work is divided. Refuses all others."""
    before = flatten(settings)
    now = build(overrides, before)
    for key, text, origin in overrides:
        fixed = not all_settings()[key].runtime_only or key.startswith(_FIXED)
        if fixed and flatten(now)[key] != before[key]:
            refuse(f"{origin}: {key}={text}: the run was made with {as_text(before[key])}; leave it out")
    return now


def changed(settings: Settings, values: Mapping[str, Any], origin: str) -> Settings:
    """The settings with other values, which go through the same door. Refuses wrong or contradictory ones."""
    return build([(key, as_text(value), origin) for key, value in values.items()], flatten(settings))


def _differing(settings: Settings) -> dict[str, Any]:
    """What differs from the defaults, and run.name, which would else follow from the name of a file."""
    return {k: v for k, v in flatten(settings).items() if v != defaults()[k] or k == "run.name"}


def as_arguments(settings: Settings) -> list[str]:
    """The command line that gives these settings."""
    return [f"{key}={as_text(value)}" for key, value in _differing(settings).items()]


def save(settings: Settings, path: Path) -> None:
    """Write all settings as YAML that --config takes."""
    write_text(path, yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True))


def as_yaml(settings: Settings, *left_out: str) -> str:
    """What differs from the defaults as YAML that --config takes, without some keys, and without a search (tune)."""
    kept = {k: v for k, v in _differing(settings).items() if k not in left_out and not k.startswith("tune.")}
    return yaml.safe_dump({**kept, "tune.trials": 0}, sort_keys=False, allow_unicode=True, width=10**6)
