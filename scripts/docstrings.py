"""What the reference needs of the sources beyond what griffe reads: an extension of griffe, for `mkdocs.yml`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

_TWIN = re.compile(r"Async version of `(\w+)`\.")
_ENTRY = re.compile(r"^\s+(\*{0,2}\w+):", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Makes links of the names in "Async version of `load`.", and parameters of typed options.

    A method with `**options: Unpack[LoadOptions]` documents the options by their names. Those are shown in its
    signature, with their types; `**options` stays there where the docstring speaks of it too.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Change what was read of a package."""
        for function in _functions(pkg):
            if function.docstring is None or function.parent is None:
                continue
            text = function.docstring.value
            function.docstring.value = _TWIN.sub(rf"Async version of [`\1`][{function.parent.path}.\1].", text)
            _spread(function, set(_ENTRY.findall(_documentation(function))), pkg)


def _functions(owner: griffe.Module | griffe.Class) -> Iterator[griffe.Function]:
    for member in owner.members.values():
        if isinstance(member, griffe.Function):
            yield member
        elif isinstance(member, (griffe.Module, griffe.Class)):
            yield from _functions(member)


def _documentation(function: griffe.Function) -> str:
    """The docstring of a method; of an async version, the method's."""
    text = function.docstring.value if function.docstring else ""
    match = re.match(r"Async version of \[`(\w+)`\]", text)
    if match and function.parent is not None:
        method = function.parent.members.get(match[1])
        return method.docstring.value if method and method.docstring else ""
    return text


def _spread(function: griffe.Function, documented: set[str], pkg: griffe.Module) -> None:
    for parameter in list(function.parameters):
        annotation = parameter.annotation
        if parameter.kind is not griffe.ParameterKind.var_keyword or not isinstance(annotation, griffe.ExprSubscript):
            continue
        if annotation.left != "Unpack" and getattr(annotation.left, "name", "") != "Unpack":
            continue
        options = pkg[str(getattr(annotation.slice, "canonical_path", "")).removeprefix(f"{pkg.path}.")]
        if f"**{parameter.name}" not in documented:
            del function.parameters[parameter.name]
        for name, field in _fields(options):
            if name in documented and name not in function.parameters:
                kind = griffe.ParameterKind.keyword_only
                function.parameters.add(griffe.Parameter(name, annotation=field.annotation, kind=kind, default="..."))


def _fields(cls: griffe.Object | griffe.Alias) -> Iterator[tuple[str, griffe.Attribute]]:
    for base in getattr(cls, "resolved_bases", []):
        yield from _fields(base)
    for name, member in cls.members.items():
        if isinstance(member, griffe.Attribute):
            yield name, member
