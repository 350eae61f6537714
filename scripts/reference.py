"""Whether the reference is complete: every public name is documented, and is on a page of `docs/reference/`.

    python -m scripts.reference    # prints what is missing, and exits with 1

`make docs` and a test ask the same. A function documents its arguments, its result and its errors; the async version of
a method names it in one line; a record documents its fields.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import langchain_supabase_history as package

PAGES: Final = Path(__file__).resolve().parents[1] / "docs" / "reference"
_DIRECTIVE: Final = re.compile(r"^::: ([\w.]+)$(?:\n    options:\n((?:      .*\n)*))?", re.MULTILINE)
_RAISE_NOTHING: Final = {"close"}
_TWIN: Final = re.compile(r"Async version of `(\w+)`\.")


def missing(public: ModuleType = package) -> list[str]:
    """What the docstrings of the public names leave out, and the names that no page of the reference shows."""
    names: list[str] = list(public.__all__)
    shown, whole = on_pages(public.__name__)
    found = []
    for name in names:
        value = getattr(public, name)
        if name not in shown:
            found.append(f"{name} is on no page of the reference")
        if not inspect.isclass(value):
            found += [f"{name}: {text}" for text in undocumented(value)]
            continue
        found += [f"{name}: {text}" for text in undocumented_class(value)]
        for member, function in methods(value):
            found += [f"{name}.{member}: {text}" for text in undocumented(function, getattr(value, "a" + member, None))]
            if name not in whole and f"{name}.{member}" not in shown:
                found.append(f"{name}.{member} is on no page of the reference")
    return found


def on_pages(prefix: str) -> tuple[set[str], set[str]]:
    """The names that the pages show, and those of classes that they show with all their members."""
    shown, whole = set(), set()
    for page in PAGES.glob("*.md"):
        for target, options in _DIRECTIVE.findall(page.read_text("utf-8") + "\n"):
            name = target.removeprefix(f"{prefix}.")
            shown.add(name)
            if "members: false" not in options:
                whole.add(name)
    return shown, whole


def methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of a class that are this package's; not those that a class of others has defined before."""
    for name in dir(cls):
        homes = [base for base in cls.__mro__ if name in vars(base)]
        if name.startswith("_") or any(not base.__module__.startswith(package.__name__) for base in homes):
            continue
        value = vars(homes[0])[name]
        value = getattr(value, "__func__", value)
        if inspect.isfunction(value):
            yield name, value


def undocumented(function: Callable[..., Any], twin: object = None) -> Iterator[str]:
    """What the docstring of a function leaves out.

    Args:
        function: The function.
        twin: Its async version, where it has one: then it talks to the database, and says what it raises.
    """
    text = inspect.getdoc(function) or ""
    if _TWIN.fullmatch(text):
        return
    if not text:
        yield "has no docstring"
        return
    signature = inspect.signature(function)
    documented = _entries(text, "Args")
    for name, parameter in signature.parameters.items():
        if name in ("self", "cls") or name in documented:
            continue
        if parameter.kind is not parameter.VAR_KEYWORD or not _options(function, name) <= documented:
            yield f"does not document {name}"
    if signature.return_annotation not in (None, "None", "Self") and not re.search(
        r"^(Returns|Yields):$", text, re.MULTILINE
    ):
        yield "does not say what it returns"
    if twin is not None and function.__name__ not in _RAISE_NOTHING and not re.search(r"^Raises:$", text, re.MULTILINE):
        yield "does not say what it raises"


def undocumented_class(cls: type) -> Iterator[str]:
    """What the docstring of a class leaves out: all of it, or fields of a record."""
    text = inspect.getdoc(cls) or ""
    if not vars(cls).get("__doc__"):
        yield "has no docstring"
    if dataclasses.is_dataclass(cls):
        documented = _entries(text, "Attributes")
        for field in dataclasses.fields(cls):
            if field.name not in documented:
                yield f"does not document {field.name}"


def _entries(text: str, section: str) -> set[str]:
    """The names that a section of a docstring documents."""
    match = re.search(rf"^{section}:\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE)
    return set(re.findall(r"^    \*{0,2}(\w+):", match[1], re.MULTILINE)) if match else set()


def _options(function: Callable[..., Any], name: str) -> set[str]:
    """The names of typed options (`**options: Unpack[...]`), or one that nothing documents."""
    match = re.fullmatch(r"Unpack\[(\w+)\]", str(function.__annotations__.get(name)))
    options = function.__globals__.get(match[1]) if match else None
    return set(getattr(options, "__annotations__", {"?": None}))


def main() -> None:
    """Print what is missing."""
    found = missing()
    print("\n".join(found) or "The reference is complete.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
