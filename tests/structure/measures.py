"""The language and the structure of ``ltcache/`` in figures, read from its source with ``ast``.

    python -m tests.structure.measures

Nothing of ltcache is imported. :mod:`tests.structure.test_structure` holds these figures against
what is allowed.
"""

from __future__ import annotations

import ast
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ltcache"
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
LONG_FUNCTION, MANY_PARAMETERS = 60, 8


@dataclass(frozen=True)
class SourceFile:
    """One module.

    Attributes:
        path: of the file. module: its dotted name. is_package: whether it is an ``__init__.py``.
    """

    path: Path
    module: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed text."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def functions(self) -> list[FunctionNode]:
        """Every function, methods and inner functions included."""
        return [node for node in ast.walk(self.tree) if isinstance(node, FunctionNode)]

    @cached_property
    def classes(self) -> list[str]:
        """The name of every class, without a leading underscore."""
        found = (node.name for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))
        return [name.lstrip("_") for name in found]

    @property
    def public_names(self) -> list[str]:
        """Public classes and functions that the module itself defines at its top."""
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        names = [node.name for node in self.tree.body if isinstance(node, kinds)]
        return [name for name in names if not name.startswith("_")]

    def imported(self) -> Iterator[str]:
        """Yield the dotted name of all that is imported, in functions too, but not for types."""
        for node in _without_type_checking(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base_of(node)
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _base_of(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*parts, node.module] if node.module else parts)


def source_files(package: Path = PACKAGE) -> list[SourceFile]:
    """Return the modules of a package, sorted by path."""
    files = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        files.append(SourceFile(path, ".".join(parts[:-1] if is_package else parts), is_package))
    return files


def _without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree but those below ``if TYPE_CHECKING``."""
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = iter(node.orelse)
    for child in children:
        yield from _without_type_checking(child)


def import_graph(files: list[SourceFile]) -> dict[str, set[str]]:
    """Return module -> modules of the package that it imports, at its top or in a function.

    ``from ltcache.fit import Rows`` is an import of the module ``ltcache.fit``, and of
    ``ltcache.fit.Rows`` where that is a module. That a package runs before its modules is left out:
    the face of a package imports its modules by design.
    """
    modules = {file.module for file in files}
    graph: dict[str, set[str]] = {}
    for file in files:
        found = set()
        for name in file.imported():
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name != file.module:
                found.add(name)
        graph[file.module] = found
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that reach each other (Tarjan's algorithm), each sorted."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return sorted(found)


def defined_twice(files: list[SourceFile]) -> dict[str, list[str]]:
    """Return public name -> modules, for each name that several modules define at their top."""
    places: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for name in dict.fromkeys(file.public_names):
            places[name].append(file.module)
    return {name: modules for name, modules in sorted(places.items()) if len(modules) > 1}


def parameter_types(files: list[SourceFile]) -> dict[str, Counter[str]]:
    """Return parameter name -> annotation -> how often, over all functions of the package."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for function in itertools.chain.from_iterable(file.functions for file in files):
        for argument in _arguments(function):
            if argument.annotation is not None:
                found[argument.arg][ast.unparse(argument.annotation).strip("'\"")] += 1
    return found


def imports_past_a_face(files: list[SourceFile]) -> list[tuple[str, str]]:
    """Return (module, module imported) where a name is taken from inside another package.

    ``from ltcache.cache.reader import Cache`` outside ``ltcache.cache`` goes past its face, since
    ``ltcache.cache`` gives the name away. Modules at the top level of ltcache have no face.
    """
    modules = {file.module: file for file in files}
    found = set()
    for module, targets in import_graph(files).items():
        for target in targets:
            parts = target.split(".")
            inside = len(parts) > 2 and not (len(parts) == 3 and modules[target].is_package)
            if inside and module.split(".")[:2] != parts[:2]:
                found.add((module, target))
    return sorted(found)


def _arguments(function: FunctionNode) -> list[ast.arg]:
    given = function.args
    everything = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [argument for argument in everything if argument.arg not in ("self", "cls")]


def _lines(function: FunctionNode) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def one_word_classes(files: list[SourceFile]) -> list[str]:
    """Return the names of classes that are one word (``Batch``, not ``BatchSampler``)."""
    names = itertools.chain.from_iterable(file.classes for file in files)
    return [name for name in names if sum(letter.isupper() for letter in name) <= 1]


def long_functions(files: list[SourceFile]) -> list[str]:
    """Return ``module:function`` of more than 60 lines, docstring included."""
    return [
        f"{file.module}:{function.name}"
        for file in files
        for function in file.functions
        if _lines(function) > LONG_FUNCTION
    ]


def crowded_functions(files: list[SourceFile]) -> list[str]:
    """Return ``module:function`` of more than 8 parameters."""
    return [
        f"{file.module}:{function.name}"
        for file in files
        for function in file.functions
        if len(_arguments(function)) > MANY_PARAMETERS
    ]


def loose_records(files: list[SourceFile]) -> int:
    """Return how often ``dict[str, Any]`` stands in the code."""
    return sum(file.path.read_text(encoding="utf-8").count("dict[str, Any]") for file in files)


def summary(files: list[SourceFile]) -> dict[str, float]:
    """Return each figure by its name."""
    lengths = [_lines(function) for file in files for function in file.functions]
    classes = sum(len(file.classes) for file in files)
    return {
        "lines": sum(len(file.path.read_text(encoding="utf-8").splitlines()) for file in files),
        "classes named by one word, %": round(100 * len(one_word_classes(files)) / classes, 1),
        "public names defined twice": len(defined_twice(files)),
        "imports past a package's face": len(imports_past_a_face(files)),
        "circles, lazy imports included": len(circles(import_graph(files))),
        "lines of a function, median": statistics.median(lengths),
        "lines of a function, 90th percentile": statistics.quantiles(lengths, n=10)[-1],
        "functions over 60 lines": len(long_functions(files)),
        "functions of more than 8 parameters": len(crowded_functions(files)),
        "dict[str, Any]": loose_records(files),
    }


def main() -> None:
    """Print the figures, and what is behind those that are lists."""
    files = source_files()
    for name, value in summary(files).items():
        print(f"{name:40} {value:g}")
    print("circles:", *(f"\n  {' '.join(c)}" for c in circles(import_graph(files))))
    print("defined twice:", *(f"\n  {n}: {' '.join(m)}" for n, m in defined_twice(files).items()))


if __name__ == "__main__":
    main()
