"""How the package is built, in figures: its floors of imports, and habits for each 1,000 lines.

    python benchmarks/house.py            the figures beside their targets; exit code 1 if one is missed
    python benchmarks/house.py --where any  where the things that are counted stand: any, lazy, private, arrows

A room is a module or package directly in ``src/diffmeter/``. Imports are counted wherever they stand, inside functions
and for type checkers only too. The tests hold these figures.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "diffmeter"

#: The rooms from the ground up. A room imports from its own floor and those below, never from above.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "units", "_version", "compat", "config", "devices"),
    ("storage", "rendering", "profile", "models", "model_manager", "flops", "resnet_bk"),
    ("metering",),
    ("formulas", "prediction"),
    ("training", "generation"),
    ("reports",),
    ("compute_profiler", "inference"),
    ("commands", "cli", "__main__"),
)

#: The door: it names what stands on any floor, and loads it when it is asked for.
DOOR = "__init__"

MAX_FLOORS = 8
MAX_LINES = 16_000
#: Rooms that came after the house was drawn: the limit of lines is for the others.
LATER_ROOMS = ("formulas", "prediction")
#: The most for each 1,000 lines.
MAX_ANY = 15.0
MAX_LAZY = 4.0
MAX_PRIVATE = 0.3

#: Where private names of other libraries may stand.
PRIVATE_NAMES_ROOM = "compat.py"


@dataclass(frozen=True, slots=True)
class Import:
    """One module of the package that another one imports, or one from elsewhere."""

    importer: str  # dotted, within the package: "metering.counters.live"
    imported: str
    line: int
    lazy: bool  # inside a function
    of_this_package: bool


@dataclass
class House:
    """What was counted, each as "file:line"."""

    lines: int = 0
    later_lines: int = 0  # of these, in the rooms that came later
    modules: int = 0
    any: list[str] = field(default_factory=list)
    lazy: list[str] = field(default_factory=list)
    private: list[str] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)

    def per_thousand(self, places: list[str]) -> float:
        """Of a list of places, how many there are for each 1,000 lines."""
        return 1000 * len(places) / self.lines

    def room_graph(self) -> dict[str, set[str]]:
        """Which rooms each room imports."""
        graph: dict[str, set[str]] = {room: set() for floor in FLOORS for room in floor}
        for found in self.imports:
            importer, imported = room_of(found.importer), room_of(found.imported)
            if found.of_this_package and importer != imported and DOOR not in (importer, imported):
                graph.setdefault(importer, set()).add(imported)
        return graph

    def module_graph(self) -> dict[str, set[str]]:
        """Which modules each module imports."""
        graph: dict[str, set[str]] = {}
        for found in self.imports:
            if found.of_this_package and DOOR not in (found.importer, found.imported):
                graph.setdefault(found.importer, set()).add(found.imported)
        return graph

    def arrows_up(self) -> list[str]:
        """Imports from a lower floor to a higher one, and rooms that stand on no floor."""
        floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
        wrong = []
        for found in self.imports:
            importer, imported = room_of(found.importer), room_of(found.imported)
            if not found.of_this_package or DOOR in (importer, imported):
                continue
            if importer not in floor or imported not in floor:
                wrong.append(f"{found.importer}:{found.line}: {importer} or {imported} is on no floor")
            elif floor[importer] < floor[imported]:
                wrong.append(f"{found.importer}:{found.line}: {importer} imports {found.imported}")
        return wrong

    def circles(self) -> list[list[str]]:
        """Circles of rooms and of modules: each a set of names of which every one leads to every other."""
        return [circle for graph in (self.room_graph(), self.module_graph()) for circle in _circles(graph)]

    def height(self) -> int:
        """How many floors the imports have: the longest chain of them, each floor counted once; 0 with arrows up."""
        number = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
        below: dict[int, set[int]] = {floor: set() for floor in number.values()}
        for room, imported in self.room_graph().items():
            below[number[room]] |= {number[other] for other in imported} - {number[room]}

        @cache
        def stacked(floor: int) -> int:
            return 1 + max((stacked(other) for other in below[floor]), default=0)

        return 0 if self.arrows_up() else max(map(stacked, below))


def _circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    reached: dict[str, set[str]] = {}
    for start in graph:
        ahead = [start]
        found: set[str] = set()
        while ahead:
            new = graph.get(ahead.pop(), set()) - found
            found |= new
            ahead += new
        reached[start] = found
    groups = {
        frozenset(other for other in graph if other in found and start in reached[other])
        for start, found in reached.items()
        if start in found
    }
    return sorted(sorted(group) for group in groups)


def room_of(module: str) -> str:
    """The room that a module is in: "metering" for "metering.counters.live"."""
    return module.partition(".")[0]


def look(package: Path = PACKAGE) -> House:
    """Read every module of the package."""
    files = {_name(path, package): path for path in sorted(package.rglob("*.py"))}
    house = House(modules=len(files))
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        house.lines += text.count("\n")
        house.later_lines += text.count("\n") if room_of(name) in LATER_ROOMS else 0
        tree = ast.parse(text)
        where = path.relative_to(package).as_posix()
        is_package = path.name == "__init__.py"
        house.imports += _imports(tree, name, files, is_package=is_package)
        house.lazy += [f"{where}:{node.lineno}" for node in _lazy_imports(tree)]
        house.any += [f"{where}:{n.lineno}" for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "Any"]
        if where != PRIVATE_NAMES_ROOM:
            house.private += [f"{where}:{line}: {what}" for line, what in _private_names(tree)]
    return house


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _lazy_imports(tree: ast.Module) -> list[ast.stmt]:
    found = {
        node.lineno: node
        for function in _functions(tree)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    return list(found.values())


def _imports(tree: ast.Module, name: str, files: Mapping[str, Path], *, is_package: bool) -> Iterator[Import]:
    lazy = {node.lineno for node in _lazy_imports(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = _targets(node, name, files, is_package=is_package)
        else:
            continue
        for target in targets:
            own = target == "diffmeter" or target.startswith("diffmeter.")
            imported = target.removeprefix("diffmeter").lstrip(".") or DOOR
            yield Import(name, imported if own else target, node.lineno, node.lineno in lazy, own)


def _targets(node: ast.ImportFrom, name: str, files: Mapping[str, Path], *, is_package: bool) -> list[str]:
    module = node.module or ""
    if node.level:
        base = ["diffmeter", *([] if name == DOOR else name.split("."))]
        if not is_package:
            base = base[:-1]
        base = base[: len(base) - node.level + 1]
        module = ".".join([*base, *([module] if module else [])])
    inside = module.removeprefix("diffmeter").lstrip(".")
    targets = []
    for alias in node.names:  # "from diffmeter.storage import files" imports a module, not a name
        deeper = f"{inside}.{alias.name}".lstrip(".")
        own = module == "diffmeter" or module.startswith("diffmeter.")
        targets.append(f"diffmeter.{deeper}" if own and deeper in files else module)
    return list(dict.fromkeys(targets))


def _private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private members of other objects, and private names imported from other libraries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and not node.level and not (node.module or "").startswith("diffmeter"):
            yield from ((node.lineno, alias.name) for alias in node.names if _is_private(alias.name))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def figures(house: House) -> list[tuple[str, float, float]]:
    """Each figure with its name and the most that it may be."""
    return [
        ("circles of imports", len(house.circles()), 0),
        ("imports from a higher floor", len(house.arrows_up()), 0),
        ("floors of imports", house.height(), MAX_FLOORS),
        (f"lines outside {' and '.join(LATER_ROOMS)}", house.lines - house.later_lines, MAX_LINES),
        ("Any in 1,000 lines", house.per_thousand(house.any), MAX_ANY),
        ("lazy imports in 1,000 lines", house.per_thousand(house.lazy), MAX_LAZY),
        ("private names in 1,000 lines", house.per_thousand(house.private), MAX_PRIVATE),
    ]


def main() -> int:
    """Print the figures; 1 if one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", choices=["any", "lazy", "private", "arrows"], help="list the places instead")
    arguments = parser.parse_args()
    house = look()
    if arguments.where is not None:
        places = house.arrows_up() if arguments.where == "arrows" else getattr(house, arguments.where)
        print("\n".join(places))
        return 0
    missed = 0
    for name, value, most in figures(house):
        missed += value > most
        mark = "" if value <= most else "   missed"
        print(f"{name:<40}{value:>10.6g}   at most {most:g}{mark}")
    for circle in house.circles():
        print("circle:", ", ".join(circle))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
