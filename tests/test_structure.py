"""Dependencies point one way, and only where Hydra is needed is it known."""

import ast
from pathlib import Path

import rnnbench

PACKAGE = Path(rnnbench.__file__).parent
LAYERS = [
    {"errors", "files", "lock", "outcome", "seeding", "published"},
    {"cells", "config", "members", "compose", "optim", "model"},
    {"tasks", "provenance"},
    {"train", "population", "diagnosis"},
    {"kernels"},
    {"engines", "record", "state", "events", "progress", "summary", "trial"},
    {"assemble", "runner", "run", "examine"},
    {"estimate", "sweep", "watch"},
    {"_plugins", "analysis"},
    {"commands"},
    {"cli", "job"},
]
"""A module may import those of its own layer and of the layers before it."""


def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }


def imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_module_has_a_layer_and_imports_only_downwards() -> None:
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    for name, tree in modules().items():
        top = name.split(".")[0]
        assert top in level, f"{name} has no layer"
        for other in imported(tree):
            parts = other.split(".")
            if parts[0] == "rnnbench" and len(parts) > 1 and parts[1] in level:
                assert level[parts[1]] <= level[top], f"{name} imports {other}"


def test_cells_know_no_task_tasks_no_cell_and_the_loop_neither_by_name() -> None:
    trees = modules()
    assert not [m for m in imported(trees["cells"]) if "tasks" in m]
    for name in (n for n in trees if n.startswith("tasks.")):
        assert not [m for m in imported(trees[name]) if m.startswith(("rnnbench.cells", "rnnbench.model"))], name
    names = {"Adding", "CopyMemory", "Music", "GRUCell", "LSTMCell", "TanhCell"}
    assert not names & {node.id for node in ast.walk(trees["train"]) if isinstance(node, ast.Name)}


def test_only_compose_and_the_plugin_know_hydra_and_the_analysis_no_torch() -> None:
    for name, tree in modules().items():
        roots = {m.split(".")[0] for m in imported(tree)}
        assert "hydra" not in roots or name == "compose" or name.startswith("_plugins."), name
        assert "torch" not in roots or not name.startswith("analysis."), name


def test_no_room_for_leftovers_and_no_file_with_two_subjects() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in ("utils", "util", "common", "helpers", "misc")
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
