"""Settings written in YAML, and the one line with which anything wrong is refused."""

import difflib
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from src.base.errors import one_line

CONFIGS = Path("configs")
_WHOLE = ("tune.space",)
"""Settings that are mappings themselves."""


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
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _leaves(tree: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A YAML mapping as (dotted key, text); a dotted key may also be written out in the file."""
    pairs = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        inner = isinstance(value, dict) and key not in _WHOLE
        pairs += _leaves(value, f"{key}.") if inner else [(key, as_text(value))]
    return pairs


def _yaml_loader(where: str) -> type:
    """A safe loader that leaves numbers and dates as they stand, for the settings' own types to read.

    It refuses a key given twice, of which YAML would silently take the last, and aliases: nothing here needs them, and
    a few lines of them unfold to more than the memory.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":bool", ":merge"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                refuse(f"{where}, line {event.start_mark.line + 1}: *{event.anchor}; write the value out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            keys = [self.construct_object(key, deep) for key, _ in node.value]
            doubled = {str(key) for key in keys if keys.count(key) > 1}
            if doubled:
                refuse(f"{where}: {', '.join(sorted(doubled))} is given twice; keep one")
            return super().construct_mapping(node, deep)

    return Loader


def parse_yaml(text: str, where: str) -> Any:
    """What YAML text holds, numbers and dates left as text. Refuses what is not YAML; `where` it stands is named."""
    import yaml

    try:
        return yaml.load(text, _yaml_loader(where))
    except yaml.YAMLError as error:
        refuse(f"{where}: not valid YAML: {' '.join(str(error).split())}")
    except RecursionError:
        refuse(f"{where}: nested too deeply; expected lines of 'key: value'")


def read_yaml(path: str) -> list[tuple[str, str]]:
    """The settings of a file as (dotted key, text)."""
    try:
        tree = parse_yaml(Path(path).read_text(encoding="utf-8-sig"), f"--config {path}")
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
