"""Who may import whom: checked on the syntax trees, imports inside functions included."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sweeps", "slurm", "trainer", "results_db", "analysis")
# What every package may import: modules that need no torch.
COMMON = ("trainer.accounting", "trainer.parts", "trainer.renamed_imports")
# Otherwise a package imports its own modules and these.
MAY_IMPORT = {
    "results_db": (),
    "trainer": ("results_db",),
    "sweeps": ("results_db",),
    "slurm": ("sweeps", "results_db"),
    "analysis": ("results_db.read",),
    "sweeps.cli": PACKAGES,
}


@cache
def files() -> dict[str, Path]:
    """Every module of the five packages, by its dotted name below tokenlaw."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, those for type checkers left out."""
    path = files()[module]
    tree = ast.parse(path.read_text())
    hidden = {
        id(statement)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for branch in node.body
        for statement in ast.walk(branch)
    }
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in hidden:
            for alias in node.names:
                top, _, name = alias.name.partition(".")
                found |= {name} if top == "tokenlaw" and name else set()
        if not isinstance(node, ast.ImportFrom) or id(node) in hidden:
            continue
        if node.level:
            above = ["tokenlaw", *package][: len(package) + 2 - node.level]
            base = ".".join([*above, *filter(None, [node.module])])
        else:
            base = node.module or ""
        if base.split(".")[0] != "tokenlaw":
            continue
        base = base.removeprefix("tokenlaw").lstrip(".")
        for alias in node.names:
            inner = f"{base}.{alias.name}".lstrip(".")
            found.add(inner if inner in files() else base)
    return frozenset(found - {module})


def inside(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_a_package_imports_only_what_it_may():
    wrong = []
    for module in files():
        room = "sweeps.cli" if inside(module, ("sweeps.cli",)) else module.split(".")[0]
        allowed = (module.split(".")[0], *COMMON, *MAY_IMPORT[room])
        wrong += [f"{module} -> {name}" for name in imports_of(module) if not inside(name, allowed)]
    assert wrong == []


def test_nothing_imports_the_command_line():
    cli = ("sweeps.cli",)
    wrong = [
        f"{module} -> {name}"
        for module in files()
        if not inside(module, cli)
        for name in imports_of(module)
        if inside(name, cli)
    ]
    assert wrong == []


def test_what_everyone_imports_stands_alone():
    allowed = (*COMMON, "results_db")
    wrong = [
        f"{module} -> {name}"
        for module in files()
        if inside(module, COMMON)
        for name in imports_of(module)
        if not inside(name, allowed)
    ]
    assert wrong == []


def test_there_is_no_circle_of_files():
    open_modules = {module: set(imports_of(module)) for module in files()}
    while free := [module for module, needs in open_modules.items() if not needs & {*open_modules}]:
        for module in free:
            del open_modules[module]
    # What is left lies on a circle, or imports one that does.
    assert open_modules == {}
