"""How a setting is declared: a frozen dataclass of pydantic, bounded types, and the mark of what changes no results."""

import os
from typing import Annotated, TypeVar

from pydantic import AfterValidator, ConfigDict, Field

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
"""Of every class of settings: types as they stand, also in dataclasses.replace; a field's docstring is its meaning."""

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
"""A probability, or a part of a whole."""
ShareBelowOne = Annotated[float, Field(ge=0, le=0.99)]
Width = Annotated[int, Field(ge=1, le=10**8)]
"""Of a layer; beyond it no memory is large enough."""

Place = Annotated[str, AfterValidator(os.path.expanduser)]
"""A file or folder; ~ is the home folder, which no shell has put in where a YAML file names it."""

RUNTIME_ONLY = "runtime only"
_Kind = TypeVar("_Kind")
RuntimeOnly = Annotated[_Kind, RUNTIME_ONLY]
"""A setting that does not change results, such as where files lie, and so does not count when two runs are compared."""
