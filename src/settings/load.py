"""The one door to the settings: defaults, then a YAML file, then --fold, then key.sub=value from the command line."""

import argparse
import dataclasses
import difflib
import functools
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from src.settings.schema import Settings
from src.settings.search_space import read_space, without
from src.settings.tuning import DEMO_SPACE
from src.settings.yaml_files import as_text, read_yaml, refuse

Given = tuple[str, str, str]
AddOptions = Callable[[argparse.ArgumentParser], None]
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted key, in order of definition."""
    flat = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        nested = dataclasses.is_dataclass(value)
        flat.update(flatten(value, f"{prefix}{field.name}.") if nested else {prefix + field.name: value})
    return flat


def _fields(kind: type = Settings, prefix: str = "") -> dict[str, dataclasses.Field]:
    fields = {}
    for field in dataclasses.fields(kind):
        nested = dataclasses.is_dataclass(field.type)
        fields.update(_fields(field.type, f"{prefix}{field.name}.") if nested else {prefix + field.name: field})
    return fields


def changing(settings: Settings) -> dict[str, Any]:
    """The settings that change results, by dotted key."""
    fields = _fields()
    return {k: v for k, v in flatten(settings).items() if fields[k].metadata.get("changes_results", True)}


def _expected(field: dataclasses.Field) -> str:
    def words(kind: Any) -> str:
        if typing.get_origin(kind) is typing.Literal:
            return "one of " + ", ".join(map(str, typing.get_args(kind)))
        if typing.get_origin(kind) is list:
            return f"a list, each {words(*typing.get_args(kind))}"
        if typing.get_args(kind):
            return " or ".join(map(words, typing.get_args(kind)))
        return _WORDS[kind]

    low, high = field.metadata.get("low"), field.metadata.get("high")
    bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
    return ", ".join([words(field.type), *bounds])


def _unknown(key: str, origin: str, known: Sequence[str]) -> NoReturn:
    near = difflib.get_close_matches(key, known, 1, 0.5)
    near = near or [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    hint = f"did you mean {near[0]}?" if near else "--help lists all settings"
    refuse(f"{origin}: unknown setting {key}; {hint}")


def option_parser(stage: str, description: str, options: AddOptions | None) -> argparse.ArgumentParser:
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
    parser.add_argument("--fold", metavar="K", help="the same as train.fold=K: work on this fold only")
    parser.add_argument("--fresh", action="store_true", help="make what this stage makes again, from the start")
    if options:
        options(parser)
    return parser


@functools.cache
def settings_parser() -> Any:
    """A parser of every setting, each with its doc line and default."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(exit_on_error=False, print_config=None, add_help=False)
    parser.add_class_arguments(Settings)
    return parser


def help_text(options: argparse.ArgumentParser, settings: Any) -> str:
    """The options, then every setting as one writes it on the command line."""
    text = settings.format_help()
    text = re.sub(r"(?m)^  --\S+ CONFIG +Path to a configuration file\.\n", "", text[text.index("All settings:") :])
    return f"{options.format_help()}\nsettings, written key.sub=value:\n\n{re.sub(r'(?m)^  --', '  ', text)}"


def _split_arguments(argv: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Options of the stage, and the settings among the arguments, written key=value, --key=value or --key value."""
    options, pairs, rest = [], [], list(argv)
    for token in rest:
        if any("\ud800" <= letter <= "\udfff" for letter in token):  # what Python makes of other bytes
            refuse(f"command line: {token} is not UTF-8; rename that file or folder, or give the text in UTF-8")
    while rest:
        token = rest.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--") and key in known and not equals:
            pairs.append((key, rest.pop(0) if rest else refuse(f"command line: {token} needs a value")))
        elif equals and (key in known or not token.startswith("-")):
            pairs.append((key, value))
        else:
            options.append(token)
    return options, pairs


def _parse_options(parser: argparse.ArgumentParser, options: list[str]) -> argparse.Namespace:
    try:
        chosen, unknown = parser.parse_known_intermixed_args(options)
    except argparse.ArgumentError as error:
        refuse(f"command line: {error}")
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0], flags, 1)
        hint = f"did you mean {near[0]}?" if near else "settings are written key.sub=value; --help lists all"
        refuse(f"command line: {unknown[0]} is not understood; {hint}")
    return chosen


def build(pairs: Sequence[Given]) -> Settings:
    """Settings from (key, text, origin); later ones win. Refuses unknown, wrong or contradictory ones in one line."""
    parser = settings_parser()
    fields = _fields()
    for key, text, origin in pairs:
        if key not in fields:
            inner = [k for k in fields if k.startswith(f"{key}.")]
            if inner:
                refuse(f"{origin}: {key} is a group of settings, got {text!r}; set one of {', '.join(inner)}")
            _unknown(key, origin, list(fields))
    latest = {key: (text, origin) for key, text, origin in pairs}
    space = latest.pop("tune.space", None)
    parsed = _parsed(parser, [(key, *given) for key, given in latest.items()], fields)
    for key, (text, origin) in latest.items():
        low, high = fields[key].metadata.get("low"), fields[key].metadata.get("high")
        low, high = (-sys.float_info.max if low is None else low), (sys.float_info.max if high is None else high)
        if isinstance(parsed[key], (int, float)) and not low <= parsed[key] <= high:
            refuse(f"{origin}: {key}={text}: expected {_expected(fields[key])}")
    try:
        settings = _only_settings(parser, parsed)
    except ValueError as error:
        refuse(str(error))
    return _searching(settings, read_space(*space, _typist(latest))) if space else settings


def _typist(given: dict[str, tuple[str, str]]) -> Callable[[str, str, str], Any]:
    """Types a value of a setting as it would be with all that is `given` besides, and refuses a wrong one."""

    def typed(key: str, text: str, origin: str) -> Any:
        others = [(k, *v) for k, v in given.items() if not k.startswith("tune.")]
        return flatten(build([*others, (key, text, origin)]))[key]

    return typed


def _searching(settings: Settings, space: dict[str, dict] | None) -> Settings:
    try:
        return dataclasses.replace(settings, tune=dataclasses.replace(settings.tune, space=space))
    except ValueError as error:
        refuse(str(error))


def narrow_search(settings: Settings, default: dict[str, dict], line: Sequence[Given]) -> Settings:
    """The settings, of whose search space (or the `default` one) the command line takes out what it gives itself.

    A search space on the command line stands as it is.
    """
    keys = {key for key, _, _ in line}
    space = default if settings.tune.space is None else settings.tune.space
    return settings if "tune.space" in keys or not keys & space.keys() else _searching(settings, without(space, keys))


def _parsed(parser: Any, pairs: list[Given], fields: dict[str, dataclasses.Field]) -> Any:
    """All pairs at once, which is what takes time; where that fails, one by one to find which is wrong."""
    try:
        return parser.parse_args([f"--{key}={text}" for key, text, _ in pairs])
    except Exception:  # whatever the types' parsers raise means the same to the user
        for key, text, origin in pairs:
            try:
                parser.parse_args([f"--{key}={text}"])
            except Exception:
                refuse(f"{origin}: {key}={text}: expected {_expected(fields[key])}")
        raise


def _only_settings(parser: Any, parsed: Any) -> Settings:
    values = parser.instantiate(parsed)
    return Settings(**{field.name: values[field.name] for field in dataclasses.fields(Settings)})


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a command line says. Settings are (key, text, origin), later ones win."""

    options: argparse.Namespace
    """The stage's own options, --config and --fresh."""
    config: list[Given]
    """The settings of the file of --config."""
    line: list[Given]
    """--fold, and the settings of the command line itself."""

    @property
    def name(self) -> list[Given]:
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
    parser = option_parser(stage, description, options)
    rest, given = _split_arguments(sys.argv[1:] if argv is None else argv, list(_fields()))
    chosen = _parse_options(parser, rest)
    if chosen.help:
        print(help_text(parser, settings_parser()))
        raise SystemExit(0)
    config: list[Given] = []
    if chosen.config is not None:
        config = [(key, text, chosen.config) for key, text in read_yaml(chosen.config)]
    fold = [("train.fold", chosen.fold, "--fold")] if chosen.fold is not None else []
    return Arguments(chosen, config, [*fold, *((key, text, "command line") for key, text in given)])


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
    return narrow_search(settings, DEMO_SPACE, arguments.line), arguments.options


def moved(settings: Settings, given: list[Given]) -> Settings:
    """The settings with those `given` that say where things lie and how the work is divided. Refuses all others."""
    was = flatten(settings)
    now = build([*((key, as_text(value), "") for key, value in was.items()), *given])
    fixed = {*changing(settings), "run.name", "train.fold", *(key for key in was if key.startswith("tune."))}
    for key, text, origin in given:
        if key in fixed and flatten(now)[key] != was[key]:
            refuse(f"{origin}: {key}={text}: the run was made with {as_text(was[key])}; leave it out")
    return now


def changed(settings: Settings, values: dict[str, Any], origin: str) -> Settings:
    """The settings with other values, which go through the same door. Refuses wrong or contradictory ones."""
    pairs = [(key, as_text(value), origin) for key, value in {**flatten(settings), **values}.items()]
    return build(pairs)


def as_arguments(settings: Settings) -> list[str]:
    """The command line that gives these settings: every one that differs from its default."""
    defaults = flatten(Settings())
    return [f"{key}={as_text(value)}" for key, value in flatten(settings).items() if value != defaults[key]]


def save(settings: Settings, path: Path) -> None:
    """Write all settings as YAML that --config takes."""
    import yaml

    from src.base.files import write_text

    write_text(path, yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True))


def as_yaml(settings: Settings, *left_out: str) -> str:
    """What differs from the defaults as YAML that --config takes, without some keys, and without a search (tune)."""
    import yaml

    found, default = flatten(settings), flatten(Settings())
    kept = {k: v for k, v in found.items() if v != default[k] and k not in left_out and not k.startswith("tune.")}
    dump = functools.partial(yaml.safe_dump, allow_unicode=True, default_flow_style=True, width=10**6)
    texts = {key: dump(value).removesuffix("...\n").strip() for key, value in {**kept, "tune.trials": 0}.items()}
    return "".join(f"{key}: {text}\n" for key, text in texts.items())
