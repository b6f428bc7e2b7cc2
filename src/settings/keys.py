"""Every setting by its dotted key: its type, default and meaning, and how text becomes its value."""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from src.settings.fields import RUNTIME_ONLY
from src.settings.schema import Settings
from src.settings.yaml_files import InvalidYaml, read_tree

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_CONSTANTS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Setting:
    """One setting. kind: its type with its bounds, as it is annotated."""

    key: str
    kind: Any
    default: Any
    description: str

    @property
    def runtime_only(self) -> bool:
        """Whether it does not change results."""
        return RUNTIME_ONLY in getattr(self.kind, "__metadata__", ())

    @property
    def expected(self) -> str:
        """Its type and bounds in words."""
        bounds: list[str] = []
        return ", ".join([_words(self.kind, bounds), *bounds])

    @functools.cached_property
    def _adapter(self) -> TypeAdapter:
        return TypeAdapter(self.kind, config=ConfigDict(strict=True, allow_inf_nan=False))

    def value_of(self, text: str) -> Any:
        """The value that the text stands for. Raises ValueError where it is of another type or out of bounds."""
        for reading in _readings(text):
            try:
                return self._adapter.validate_python(reading)
            except ValidationError:
                continue
        raise ValueError(f"expected {self.expected}")


def _words(kind: Any, bounds: list[str]) -> str:
    """A type in words; its bounds are added to `bounds`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        constraints = [part for field in kind.__metadata__ for part in getattr(field, "metadata", ())]
        bounds += [f"at least {c.ge}" if hasattr(c, "ge") else f"at most {c.le}" for c in constraints]
        return _words(arguments[0], bounds)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return f"a list, each {_words(arguments[0], bounds)}"
    if origin is dict:
        return "a mapping"
    if origin in (typing.Union, types.UnionType):
        lists_last = sorted(arguments, key=lambda part: typing.get_origin(part) is list)
        return " or ".join(_words(part, bounds) for part in lists_last)
    return _WORDS[kind]


def _readings(text: str) -> Iterator[Any]:
    """What a text may stand for: null, itself, a list of texts, and with true, false and numbers as such.

    The first that a setting's type takes counts: 1.5 stays text where text is expected.
    """
    if text == "null":
        yield None
    yield text
    tree: Any = text
    if text.lstrip().startswith("["):
        try:
            tree = read_tree(text)
        except InvalidYaml:
            return
        yield tree
    yield _resolved(tree)


def _resolved(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_resolved(part) for part in tree]
    if not isinstance(tree, str):
        return tree
    if tree in _CONSTANTS:
        return _CONSTANTS[tree]
    for kind in (int, float):
        try:
            return kind(tree)
        except ValueError:
            continue
    return tree


def _walk(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    """Dotted key, type as annotated, and declaration of every group and every setting, in order of definition."""
    kinds = typing.get_type_hints(kind, include_extras=True)
    for name, field in vars(kind)["__pydantic_fields__"].items():
        yield f"{prefix}{name}", kinds[name], field
        if dataclasses.is_dataclass(kinds[name]):
            yield from _walk(kinds[name], f"{prefix}{name}.")


@functools.cache
def groups() -> dict[str, type]:
    """The class of every group of settings, by the group's dotted key."""
    return {key: kind for key, kind, _ in _walk(Settings) if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


@functools.cache
def all_settings() -> dict[str, Setting]:
    """Every setting by its dotted key."""
    return {
        key: Setting(
            key, kind, field.get_default(call_default_factory=True), " ".join((field.description or "").split())
        )
        for key, kind, field in _walk(Settings)
        if not dataclasses.is_dataclass(kind)
    }


@functools.cache
def _getter(results: bool) -> tuple[list[str], Callable[[Settings], tuple]]:
    """The keys of all settings, or of those that change results, and what reads their values."""
    keys = [key for key, setting in all_settings().items() if not (results and setting.runtime_only)]
    return keys, operator.attrgetter(*keys)


def flatten(settings: Settings) -> dict[str, Any]:
    """The value of every setting by its dotted key, in order of definition."""
    keys, values_of = _getter(False)
    return dict(zip(keys, values_of(settings), strict=True))


@functools.cache
def defaults() -> dict[str, Any]:
    """The default of every setting by its dotted key."""
    return flatten(Settings())


def assemble(values: dict[str, Any], kind: type = Settings, prefix: str = "") -> Any:
    """Settings from values by dotted key; the others have their defaults. Raises ValueError for a contradiction."""
    arguments = {}
    for field in dataclasses.fields(kind):
        key = f"{prefix}{field.name}"
        if key in groups():
            arguments[field.name] = assemble(values, groups()[key], f"{key}.")
        elif key in values:
            arguments[field.name] = values[key]
    try:
        return kind(**arguments)
    except ValidationError as error:
        raise ValueError(contradiction(error)) from error


def contradiction(error: ValidationError) -> str:
    """What a class of settings says against values whose types are right, without what pydantic puts around it."""
    detail = error.errors()[0]
    return str(detail.get("ctx", {}).get("error", detail["msg"]))


def changing(settings: Settings) -> dict[str, Any]:
    """The settings that change results, by dotted key."""
    keys, values_of = _getter(True)
    return dict(zip(keys, values_of(settings), strict=True))
