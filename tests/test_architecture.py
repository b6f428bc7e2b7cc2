"""Packages, layers and habits, read from the source. docs/architecture.md describes them."""

import ast
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
COMMANDS = {"preprocess", "split", "tune", "train", "predict", "ensemble", "evaluate", "submit", "compare", "caption"}
COMMANDS |= {"app", "plan", "rebuild"}
LAYERS = [
    {"base"},
    {"settings", "demo", "plots", "video"},
    {"pipeline", "data", "models", "metrics"},
    {"decoding", "submission"},
    {"training"},
    {"inference"},
    {"ensembling", "tuning"},
    {"reports", "serving"},
    COMMANDS,
]
MOST_EDGES = 124
HEAVY = {"torch", "torchvision", "timm", "pandas", "numpy", "scipy", "sklearn", "albumentations", "cv2", "matplotlib"}
HEAVY |= {"optuna", "PIL", "nltk", "pycocoevalcap", "skimage", "tensorboard"}
LIGHT = {"base", "settings", "pipeline"}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def module_of(path: Path) -> str:
    return ".".join(("src", *path.relative_to(SOURCE).with_suffix("").parts))


def package(module: str) -> str:
    return module.split(".")[1]


def layer(name: str) -> int:
    return next(level for level, packages in enumerate(LAYERS) if name in packages)


def is_file(module: str) -> bool:
    return SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py").is_file()


def imports(node: ast.AST) -> set[str]:
    """Every module of src, and every top-level package from outside, that is imported in or below `node`."""
    names = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            names |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            inner = {f"{child.module}.{alias.name}" for alias in child.names}
            names |= {name for name in inner if name.startswith("src.") and is_file(name)} or {child.module}
    return {name if name.startswith("src") else name.split(".")[0] for name in names}


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
ARROWS = {module_of(path): {n for n in imports(tree) if n.startswith("src.")} for path, tree in TREES.items()}


def arrow_fault(module: str, imported: str) -> str:
    """Why a file may not import another one, or ""."""
    above, below = package(module), package(imported)
    if below in COMMANDS:
        return "a command is imported"
    if below == "plots" and above not in {"plots", "reports", "serving", *COMMANDS}:
        return "plots are for commands and reports"
    if above != below and layer(below) >= layer(above):
        return "the arrow climbs"
    return ""


def test_packages_and_commands_are_those_of_the_plan():
    files = {path.stem for path in FILES if path.parent == SOURCE}
    assert files == COMMANDS, "a file directly in src/ is a command"
    packages = {path.relative_to(SOURCE).parts[0] for path in FILES if path.parent != SOURCE}
    assert packages == set().union(*LAYERS) - COMMANDS
    for path in FILES:
        if path.parent == SOURCE:
            functions = {node.name for node in TREES[path].body if isinstance(node, ast.FunctionDef)}
            assert "main" in functions, f"{path.name} defines no main()"
    inits = [path for path in SOURCE.rglob("__init__.py") if path.parent != SOURCE]
    assert not [path for path in inits if path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", ARROWS)
def test_imports_only_point_down(module):
    faults = {name: fault for name in ARROWS[module] if (fault := arrow_fault(module, name))}
    assert not faults, f"{module}: {faults}"


def test_no_file_imports_itself_through_others():
    open_, done = [], set()

    def visit(module: str) -> None:
        assert module not in open_, " -> ".join([*open_, module])
        if module in done:
            return
        open_.append(module)
        for name in sorted(ARROWS.get(module, ())):
            visit(name)
        open_.pop()
        done.add(module)

    for module in sorted(ARROWS):
        visit(module)


def test_few_edges_between_packages(capsys):
    edges = {(package(module), package(name)) for module, names in ARROWS.items() for name in names}
    edges = {(above, below) for above, below in edges if above != below}
    with capsys.disabled():
        print(f"\n{len(edges)} edges between {len({package for edge in edges for package in edge})} packages")
    assert len(edges) <= MOST_EDGES, sorted(edges)


def test_every_file_has_a_name_of_its_own():
    assert not [name for name, count in Counter(path.name for path in FILES).items() if count > 1]


@pytest.mark.parametrize("path", [p for p in FILES if p.parent == SOURCE or p.parent.name in LIGHT], ids=module_of)
def test_commands_and_what_they_import_start_light(path):
    top = {n for node in TREES[path].body if isinstance(node, (ast.Import, ast.ImportFrom)) for n in imports(node)}
    assert not top & HEAVY
    assert {package(name) for name in top if name.startswith("src.")} <= LIGHT


def docstrings(tree: ast.Module) -> set[ast.AST]:
    """Every text that stands by itself, those below attributes and constants too."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) != "src.pipeline.runs"], ids=module_of)
def test_paths_inside_runs_are_said_by_pipeline_runs_alone(path):
    tree = TREES[path]
    told = docstrings(tree)
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in told]
    assert not [n.value for n in texts if "fold-" in n.value or "settings.yaml" in n.value]


def unannotated(tree: ast.Module) -> list[str]:
    """Parameters without a type of public functions and methods."""
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [node for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef)]
    names = []
    for function in functions:
        if function.name.startswith("_") and function.name not in ("__init__", "__call__"):
            continue
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        names += [
            f"{function.name}({argument.arg})"
            for argument in every
            if argument and argument.annotation is None and argument.arg not in ("self", "cls", "_")
        ]
    return names


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_parameters_of_public_functions_have_types(path):
    assert not unannotated(TREES[path])


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} does not fit on a screen"


@pytest.mark.parametrize(
    ("module", "imported", "fault"),
    [
        ("src.training.fit", "src.train", "a command is imported"),
        ("src.evaluate", "src.train", "a command is imported"),
        ("src.training.fit", "src.plots.style", "plots are for commands and reports"),
        ("src.data.table", "src.training.fit", "the arrow climbs"),
        ("src.data.table", "src.models.weights", "the arrow climbs"),
        ("src.reports.figures", "src.plots.style", ""),
        ("src.train", "src.plots.style", ""),
        ("src.training.fit", "src.data.table", ""),
    ],
)
def test_arrows_that_are_refused(module, imported, fault):
    assert arrow_fault(module, imported) == fault


def test_parameters_without_a_type_are_seen():
    tree = ast.parse("def f(a, b: int, *c): ...\nclass K:\n    def g(self, d): ...\n    def _h(self, e): ...\n")
    assert unannotated(tree) == ["f(a)", "f(c)", "g(d)"]
