"""Which code a stage's results depend on, and a hash of it that harmless edits leave as it is.

What counts is the stage's command and every file of src that it imports, directly or not, except
- plots, reports, video: they show results;
- settings: the values are compared by themselves, name by name (see `artefacts`);
- pipeline: it decides what is made when and where, not what is in it;
- demo, unless it is what is made: its photos are told by their own size and time, as any other data;
- base: errors, locks, machine, provenance, stopping, text_table, worker_pool, which are messages, locks, processes and
  records.
Of a file, layout, comments, docstrings, annotations, print statements, help texts, the arguments of exceptions that are
raised, and statements that only draw or report do not count. Of requirements.txt, what stands above its line
"# What follows changes no result" counts.
"""

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

from src.base.files import digest, digest_of

_ROOMS_LEFT_OUT = {"plots", "reports", "video", "settings", "pipeline", "demo"}
_FILES_LEFT_OUT = {
    f"base/{name}.py" for name in ("errors", "locks", "machine", "provenance", "stopping", "text_table", "worker_pool")
}
_SHOWING = ("src.plots", "src.reports", "src.video")
_WORDS = {"help", "description", "desc", "metavar"}
"""Keyword arguments that hold words for people."""
_NO_RESULT = "# What follows changes no result"


@cache
def code_of(stage: str) -> dict[str, str]:
    """The hash of each file that the results of src/STAGE.py depend on, by its path in src, and of the packages."""
    source = Path(__file__).parents[1]
    pending, codes = [f"src.{stage}"], {}
    while pending:
        path = Path(*pending.pop().split(".")[1:]).with_suffix(".py")
        name = path.as_posix()
        left_out = path.parts[0] in _ROOMS_LEFT_OUT - {stage.split(".")[0]} or name in _FILES_LEFT_OUT
        if name not in codes and not left_out and (source / path).is_file():
            codes[name], imported = _code_of(Path(source, path).read_text(encoding="utf-8"))
            pending += imported
    requirements = source.parent / "requirements.txt"
    text = requirements.read_text(encoding="utf-8").partition(_NO_RESULT)[0] if requirements.is_file() else ""
    return {**codes, "requirements.txt": digest_of([line for line in text.splitlines() if "==" in line])}


def code_digest(stage: str) -> str:
    """One hash of all that `code_of` says."""
    return digest_of(code_of(stage))


def other_code(recorded: object, stage: str) -> str:
    """Whose code is not what a record says (see `code_of`), in words; "" where none differs."""
    present = code_of(stage)
    if recorded == present:
        return ""
    if not isinstance(recorded, dict):
        return "the code changed"
    names = sorted(name for name in {**recorded, **present} if recorded.get(name) != present.get(name))
    more = f" and {len(names) - 5} more files" if len(names) > 5 else ""
    return f"the code of {', '.join(names[:5])}{more} changed"


@cache
def _code_of(text: str) -> tuple[str, list[str]]:
    """Hash of a file's code, and what of src it may import. Kept, as stages share most files."""
    tree, imported = ast.parse(text), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("src"):
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names if alias.name.startswith("src.")]
    return digest(_dump(_WhatComputes().visit(tree))), imported


def _dump(tree: ast.AST) -> str:
    """The tree as the `ast.dump` of Python 3.11 writes it, whichever Python this is."""
    every: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **every).replace(", type_params=[]", "")


class _WhatComputes(ast.NodeTransformer):
    """Takes out of a file's tree what changes no result."""

    def __init__(self) -> None:
        self.showing: set[str] = set()  # names imported from rooms that show results

    def generic_visit(self, node: ast.AST) -> ast.AST:
        had_body = bool(getattr(node, "body", None))
        super().generic_visit(node)
        if had_body and node.body == []:  # type: ignore[attr-defined]
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if (node.module or "").startswith(_SHOWING):
            self.showing |= {alias.asname or alias.name for alias in node.names}
            return None
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        call = node.value
        if isinstance(call, ast.Constant):  # a docstring
            return None
        if isinstance(call, ast.Call):
            function = call.func.value if isinstance(call.func, ast.Attribute) else call.func
            if isinstance(function, ast.Name) and function.id in {"print", *self.showing}:
                return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            return ast.Raise(exc=node.exc.func, cause=None)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        # from Python 3.12 on an empty text ends a format that ends with a value
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        return None if node.arg in _WORDS else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(arg=node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # the annotated names of a class may be the fields of a dataclass, so they stay as they are
        fields = [ast.AnnAssign(f.target, ast.Constant(None), f.value, f.simple)
                  for f in node.body if isinstance(f, ast.AnnAssign)]  # fmt: skip
        node.body = [statement for statement in node.body if not isinstance(statement, ast.AnnAssign)]
        self.generic_visit(node)
        node.body = [*fields, *node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return self.generic_visit(ast.Assign([node.target], node.value)) if node.value else None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        self.generic_visit(node)
        idle = all(isinstance(statement, ast.Pass) for statement in [*node.body, *node.orelse])
        acts = any(isinstance(part, (ast.Call, ast.NamedExpr)) for part in ast.walk(node.test))
        return None if idle and not acts else node
