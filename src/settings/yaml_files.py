"""Settings written in YAML, and the one line with which anything wrong is refused."""

import difflib
import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

from src.base.text import one_line
from src.base.text_files import file_content

CONFIGS = Path("configs")
_WHOLE = ("tune.space",)
"""Settings that are mappings themselves."""
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""Characters that JSON may hold as they are, and YAML may not, or takes for the end of a line."""


class ConfigError(SystemExit):
    """A wrong setting or argument. Carries its one line; ends a program with exit code 2."""

    def __init__(self, message: str):
        super().__init__(2)
        self.message = message

    def __str__(self) -> str:
        return self.message


def refuse(message: str) -> NoReturn:
    """Print the line and raise ConfigError."""
    message = one_line(message)
    print(f"error: {message}", file=sys.stderr)
    raise ConfigError(message)


def as_text(value: Any) -> str:
    """A value as one writes it on the command line."""
    if isinstance(value, str):
        return value
    text = json.dumps(value, default=str, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _leaves(tree: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A YAML mapping as (dotted key, text); a dotted key may also be written out in the file."""
    pairs = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        inner = isinstance(value, dict) and key not in _WHOLE
        pairs += _leaves(value, f"{key}.") if inner else [(key, as_text(value))]
    return pairs


class InvalidYaml(ValueError):
    """Text that is not YAML, or not such as settings are written in."""


class _Loader(yaml.SafeLoader):
    """A safe loader that leaves all but null as text, for the settings' own types to read.

    It refuses a key given twice, of which YAML would silently take the last, and aliases: nothing here needs them, and
    a few lines of them unfold to more than the memory.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise InvalidYaml(f"line {event.start_mark.line + 1}: *{event.anchor}; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        doubled = {str(key) for key in keys if keys.count(key) > 1}
        if doubled:
            raise InvalidYaml(f"{', '.join(sorted(doubled))} is given twice; keep one")
        return super().construct_mapping(node, deep)


def read_tree(text: str) -> Any:
    """What YAML text holds: mappings and lists of text and null. Raises InvalidYaml with the reason."""
    try:
        return yaml.load(text, _Loader)
    except InvalidYaml:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a tag such as !!int before what is none
        raise InvalidYaml(f"not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InvalidYaml("nested too deeply; expected lines of 'key: value'") from error


def read_yaml(path: str) -> list[tuple[str, str]]:
    """The settings of a file as (dotted key, text)."""
    try:
        tree = read_tree(file_content(Path(path)).decode("utf-8-sig"))
    except InvalidYaml as error:
        refuse(f"--config {path}: {error}")
    except FileNotFoundError:
        near = difflib.get_close_matches(path, [str(p) for p in CONFIGS.glob("*.yaml")], 1)
        refuse(f"--config {path}: no such file" + (f"; did you mean {near[0]}?" if near else ""))
    except OSError as error:
        refuse(f"--config {path or '(nothing)'}: {error.strerror}; give a YAML file that you may read")
    except UnicodeDecodeError:
        refuse(f"--config {path}: not UTF-8 text; save it as UTF-8")
    if tree is None:
        return []
    if not isinstance(tree, dict):
        refuse(f"--config {path}: expected lines of 'key: value', found {type(tree).__name__}")
    pairs = _leaves(tree)
    keys = [key for key, _ in pairs]
    if doubled := sorted({key for key in keys if keys.count(key) > 1}):
        refuse(f"--config {path}: {', '.join(doubled)} is given twice; keep one")
    return pairs
