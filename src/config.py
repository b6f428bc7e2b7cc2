"""The one door to the settings: defaults, then a YAML file, then --fold, then key.sub=value from the command line."""

import argparse
import dataclasses
import difflib
import json
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from src.settings import Settings

AddOptions = Callable[[argparse.ArgumentParser], None]
CONFIGS = Path("configs")
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


class ConfigError(SystemExit):
    """A wrong setting or argument. Carries its one line; ends a program with exit code 2."""

    def __init__(self, message: str):
        super().__init__(2)
        self.message = message

    def __str__(self) -> str:
        return self.message


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise ConfigError(message)


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
    _refuse(f"{origin}: unknown setting {key}; {hint}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _leaves(tree: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A YAML mapping as (dotted key, text); a dotted key may also be written out in the file."""
    pairs = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        pairs += _leaves(value, f"{key}.") if isinstance(value, dict) else [(key, _text(value))]
    return pairs


def _yaml_loader(path: str) -> type:
    """A safe loader that refuses a key given twice, of which YAML would silently take the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            keys = [self.construct_object(key, deep) for key, _ in node.value]
            doubled = {str(key) for key in keys if keys.count(key) > 1}
            if doubled:
                _refuse(f"--config {path}: {', '.join(sorted(doubled))} is given twice; keep one")
            return super().construct_mapping(node, deep)

    return Loader


def _read_yaml(path: str) -> list[tuple[str, str]]:
    """The settings of a file as (dotted key, text)."""
    import yaml

    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8-sig"), _yaml_loader(path))
    except FileNotFoundError:
        near = difflib.get_close_matches(path, [str(p) for p in CONFIGS.glob("*.yaml")], 1)
        _refuse(f"--config {path}: no such file" + (f"; did you mean {near[0]}?" if near else ""))
    except OSError as error:
        _refuse(f"--config {path}: {error.strerror}")
    except UnicodeDecodeError:
        _refuse(f"--config {path}: not UTF-8 text; save it as UTF-8")
    except yaml.YAMLError as error:
        _refuse(f"--config {path}: not valid YAML: {' '.join(str(error).split())}")
    if tree is None:
        return []
    if not isinstance(tree, dict):
        _refuse(f"--config {path}: expected lines of 'key: value', found {type(tree).__name__}")
    return _leaves(tree)


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
    while rest:
        token = rest.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--") and key in known and not equals:
            pairs.append((key, rest.pop(0) if rest else _refuse(f"command line: {token} needs a value")))
        elif equals and (key in known or not token.startswith("-")):
            pairs.append((key, value))
        else:
            options.append(token)
    return options, pairs


def _parse_options(parser: argparse.ArgumentParser, options: list[str]) -> argparse.Namespace:
    try:
        chosen, unknown = parser.parse_known_args(options)
    except argparse.ArgumentError as error:
        _refuse(f"command line: {error}")
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0], flags, 1)
        hint = f"did you mean {near[0]}?" if near else "settings are written key.sub=value; --help lists all"
        _refuse(f"command line: {unknown[0]} is not understood; {hint}")
    return chosen


def _typed(parser: Any, pairs: list[tuple[str, str, str]]) -> Settings:
    fields = _fields()
    for key, text, origin in pairs:
        if key not in fields:
            inner = [k for k in fields if k.startswith(f"{key}.")]
            if inner:
                _refuse(f"{origin}: {key} is a group of settings, got {text!r}; set one of {', '.join(inner)}")
            _unknown(key, origin, list(fields))
        try:
            value = parser.parse_args([f"--{key}={text}"])[key]
        except Exception:  # whatever the type's parser raises means the same to the user
            _refuse(f"{origin}: {key}={text}: expected {_expected(fields[key])}")
        low, high = fields[key].metadata.get("low"), fields[key].metadata.get("high")
        low, high = (-sys.float_info.max if low is None else low), (sys.float_info.max if high is None else high)
        if isinstance(value, (int, float)) and not low <= value <= high:
            _refuse(f"{origin}: {key}={text}: expected {_expected(fields[key])}")
    try:
        parsed = parser.parse_args([f"--{key}={text}" for key, text, _ in pairs])
        return _only_settings(parser, parsed)
    except ValueError as error:
        _refuse(str(error))


def _only_settings(parser: Any, parsed: Any) -> Settings:
    values = parser.instantiate(parsed)
    return Settings(**{field.name: values[field.name] for field in dataclasses.fields(Settings)})


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
    own, parser = option_parser(stage, description, options), settings_parser()
    rest, given = _split_arguments(sys.argv[1:] if argv is None else argv, list(_fields()))
    chosen = _parse_options(own, rest)
    if chosen.help:
        print(help_text(own, parser))
        raise SystemExit(0)
    pairs = []
    if chosen.config:
        pairs += [(key, text, chosen.config) for key, text in _read_yaml(chosen.config)]
    if chosen.fold is not None:
        pairs.append(("train.fold", chosen.fold, "--fold"))
    pairs += [(key, text, "command line") for key, text in given]
    settings = _typed(parser, pairs)
    if settings.run.name is None:
        name = Path(chosen.config).stem if chosen.config else "demo"
        settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, name=name))
    return settings, chosen


def as_arguments(settings: Settings) -> list[str]:
    """The command line that gives these settings: every one that differs from its default."""
    defaults = flatten(Settings())
    return [f"{key}={_text(value)}" for key, value in flatten(settings).items() if value != defaults[key]]


def save(settings: Settings, path: Path) -> None:
    """Write all settings as YAML that --config takes."""
    import yaml

    from src.files import write_text

    write_text(path, yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True))
