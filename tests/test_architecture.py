"""The rooms: who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FLOORS = [
    {
        "settings",
        "setting_fields",
        "network_settings",
        "training_settings",
        "tuning_settings",
        "ensemble_settings",
        "search_space",
        "config",
        "config_files",
        "randomness",
        "files",
        "errors",
        "comma_separated",
        "json_files",
        "joined_runs",
        "artefacts",
    },
    {"pipeline", "data", "models", "metrics", "visual"},
    {"decoding", "side_by_side"},
    {"training"},
    {"blending", "tuning"},
    {
        "preprocess",
        "split",
        "tune",
        "train",
        "predict",
        "ensemble",
        "evaluate",
        "submit",
        "compare",
        "caption",
        "rebuild",
    },
]
HEAVY = {"torch", "torchvision", "timm", "pandas", "numpy", "scipy", "sklearn", "albumentations", "cv2", "matplotlib"}
FILES = sorted(SOURCE.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1]


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def module_of(path: Path) -> str:
    return ".".join(("src", *path.relative_to(SOURCE).with_suffix("").parts))


def exists(module: str) -> bool:
    return SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py").is_file()


def imports(node: ast.AST) -> set[str]:
    """Every module of src, and every top-level package from outside, that is imported in or below `node`."""
    found = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            inner = {f"{child.module}.{alias.name}" for alias in child.names}
            found |= {name for name in inner if name.startswith("src.") and exists(name)} or {child.module}
    return {name if name.startswith("src") else name.split(".")[0] for name in found}


def top_level(tree: ast.Module) -> set[str]:
    """What is imported as soon as the file is."""
    return {name for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)) for name in imports(node)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_imports_only_point_down(path):
    module, tree = module_of(path), ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "__init__.py":
        assert not path.read_text(encoding="utf-8"), "packages hold no code of their own"
        return
    for name in imports(tree):
        if not name.startswith("src."):
            continue
        inside = room(name) == room(module) and floor(module) not in (0, len(FLOORS) - 1)
        assert inside or floor(name) < floor(module) or floor(module) == 0 == floor(name), f"{module} imports {name}"


def test_no_circle():
    graph = {module_of(p): {n for n in imports(ast.parse(p.read_text())) if n.startswith("src.")} for p in FILES}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_, module])
        if module in done:
            return
        open_.append(module)
        for name in sorted(graph.get(module, ())):
            visit(name)
        open_.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)


@pytest.mark.parametrize("path", [p for p in FILES if p.parent == SOURCE and p.name != "__init__.py"], ids=module_of)
def test_stages_and_ground_floor_start_light(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not top_level(tree) & HEAVY
    if floor(module_of(path)) == len(FLOORS) - 1:
        light = {"artefacts", "comma_separated", "config", "errors", "files", "joined_runs", "pipeline", "settings"}
        assert {room(name) for name in top_level(tree) if name.startswith("src.")} <= light


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_stay_small(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 340
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} does not fit on a screen"


def test_readme_names_every_file():
    tree = (SOURCE.parent / "README.md").read_text(encoding="utf-8").partition("## The tree")[2]
    named = {line.split()[0] for line in tree.splitlines() if line.strip()}
    assert not [path.name for path in FILES if path.name != "__init__.py" and path.name not in named]
