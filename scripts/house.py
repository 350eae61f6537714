"""How the package is built: modules per folder, long files and functions, circles, private reaches, upward imports.

    python -m scripts.house              # the working tree
    python -m scripts.house --rev v0.1   # a git revision, for before and after
    python -m scripts.house --json

Imports under `if TYPE_CHECKING:` and inside functions count too. Of a revision without these folders, what goes up is
not known, and not counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

PACKAGE: Final = "langchain_supabase_history"
ROOT: Final = Path(__file__).resolve().parents[1]

# From the ground up; a module may import from its own floor and from those below.
FLOORS: Final = (
    ("errors", "records"),
    ("core",),
    ("drivers",),
    ("operations",),
    ("migrations", "outbox"),
    ("connect",),
    ("langchain",),
    ("langsmith", "transfer"),
    ("store",),
    ("adapters", "doctor", "streamlit", "testing"),
    ("commands",),
)
MOST_LINES: Final = 400
MOST_SQL_LINES: Final = 300
MOST_FUNCTION_LINES: Final = 60


@dataclass
class Report:
    """What was measured."""

    modules: dict[str, int] = field(default_factory=dict)
    longest_files: list[tuple[int, str]] = field(default_factory=list)
    longest_sql: list[tuple[int, str]] = field(default_factory=list)
    longest_functions: list[tuple[int, str]] = field(default_factory=list)
    circles: list[str] = field(default_factory=list)
    private_reaches: list[str] = field(default_factory=list)
    upward_imports: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What does not keep to the aims."""
        found = [f"{name}: {lines} lines" for lines, name in self.longest_files if lines >= MOST_LINES]
        found += [f"{name}: {lines} lines" for lines, name in self.longest_sql if lines >= MOST_SQL_LINES]
        found += [f"{name}: {lines} lines" for lines, name in self.longest_functions if lines >= MOST_FUNCTION_LINES]
        return [*found, *self.circles, *self.private_reaches, *self.upward_imports]


class Module:
    """One module of the package."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.tree = ast.parse(source)

    def imports(self) -> Iterator[tuple[str, str]]:
        """Each import from the package: the module, and the name taken from it."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                base = self._base(node)
                if base is not None:
                    for alias in node.names:
                        yield base, alias.name

    def _base(self, node: ast.ImportFrom) -> str | None:
        if node.level == 0:
            if node.module == PACKAGE or (node.module or "").startswith(f"{PACKAGE}."):
                return (node.module or "").removeprefix(PACKAGE).lstrip(".")
            return None
        parts = self.name.split(".")[: -node.level]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def functions(self) -> Iterator[tuple[int, str]]:
        """Lines and name of each function, without its docstring."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = node.body[0] if ast.get_docstring(node) else None
                of_docstring = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
                yield (node.end_lineno or 0) - node.lineno + 1 - of_docstring, f"{self.name}.{node.name}"

    def private_reads(self) -> Iterator[str]:
        """Private attributes read on something that is neither this object nor defined in this module."""
        own = {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute) and _is_self(node.value)}
        own |= {node.name for node in ast.walk(self.tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        own |= {
            node.target.id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Attribute) or not _is_private(node.attr) or node.attr in own:
                continue
            if not _is_self(node.value) and not _is_super(node.value):
                yield f"{self.name}:{node.lineno} reads {ast.unparse(node)[:60]}"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def measure(root: Path) -> Report:
    """Measure the package below a folder."""
    folder = root / PACKAGE
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        modules[name] = Module(name, path.read_text("utf-8"))
    report = Report()
    report.modules = dict(
        Counter(name.rpartition(".")[0] or "." for name in modules if not name.endswith("__init__")).most_common()
    )
    lines = [(module.source.count("\n"), name) for name, module in modules.items()]
    report.longest_files = sorted(lines, reverse=True)[:5]
    sql = [(path.read_text("utf-8").count("\n"), path.name) for path in folder.rglob("*.sql") if path.name[0].isdigit()]
    report.longest_sql = sorted(sql, reverse=True)[:5]
    functions = [entry for module in modules.values() for entry in module.functions()]
    report.longest_functions = sorted(functions, reverse=True)[:5]
    graph = {name: set(_targets(module, modules)) for name, module in modules.items()}
    report.circles = sorted(_circles(graph))
    for name, module in modules.items():
        report.private_reaches += list(module.private_reads())
        for base, taken in module.imports():
            if _is_private(taken):
                report.private_reaches.append(f"{name} imports {base}.{taken}")
            if base and _floor(base) > _floor(name) >= 0:
                report.upward_imports.append(f"{name} imports {base}.{taken}")
    return report


def _targets(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    for base, taken in module.imports():
        target = f"{base}.{taken}".lstrip(".")
        target = target if target in modules else base
        if target in modules and target != module.name:
            yield target


def _floor(name: str) -> int:
    top = name.split(".")[0]
    for number, floor in enumerate(FLOORS):
        if top in floor:
            return number
    return -1  # the package itself, which loads its public names from all floors


def _circles(graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circle = way[way.index(name) :]
            start = circle.index(min(circle))
            found.add(" -> ".join([*circle[start:], *circle[:start], min(circle)]))
            return
        if name in done:
            return
        for target in sorted(graph[name]):
            walk(target, (*way, name))
        done.add(name)

    done: set[str] = set()
    for name in graph:
        walk(name, ())
    return found


def show(report: Report) -> None:
    """Print a report for people."""
    print(f"modules per folder  {', '.join(f'{name} {count}' for name, count in report.modules.items())}")
    for title, entries in (
        (f"longest files (aim: under {MOST_LINES})", report.longest_files),
        (f"longest SQL (aim: under {MOST_SQL_LINES})", report.longest_sql),
        (f"longest functions, docstrings not counted (aim: under {MOST_FUNCTION_LINES})", report.longest_functions),
    ):
        print(f"{title}: " + ", ".join(f"{name} {lines}" for lines, name in entries))
    for title, found in (
        ("circles", report.circles),
        ("private reaches across modules", report.private_reaches),
        ("imports that go up", report.upward_imports),
    ):
        print(f"{title}: {len(found)}")
        for line in found:
            print(f"  {line}")


def main() -> None:
    """Measure and print; exit with 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description="How the package is built.")
    parser.add_argument("--rev", help="a git revision instead of the working tree")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.rev:
        with tempfile.TemporaryDirectory() as folder:
            archive = subprocess.run(
                ["git", "archive", options.rev, PACKAGE], cwd=ROOT, check=True, capture_output=True
            ).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
            report = measure(Path(folder))
    else:
        report = measure(ROOT)
    if options.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        show(report)
    sys.exit(1 if report.faults() else 0)


if __name__ == "__main__":
    main()
