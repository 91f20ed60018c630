"""Mutants of a formula: copies of its source with one mistake each."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any


class _Change(ast.NodeTransformer):
    """Makes the change with the given number, and counts how many there are."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.seen = 0
        self.what = ""

    def _now(self, what: str) -> bool:
        self.seen += 1
        if self.seen - 1 == self.wanted:
            self.what = what
        return self.seen - 1 == self.wanted

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult):
            if self._now(f"{ast.unparse(node)}: without its last factor"):
                return node.left
            if self._now(f"{ast.unparse(node)}: without its first factor"):
                return node.right
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if node.value is not None and self._now(f"7 times {ast.unparse(node)}"):
            node.value = ast.BinOp(ast.Constant(7), ast.Mult(), node.value)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        index = ast.unparse(node.slice)
        self.generic_visit(node)
        other = {"-1": "-2", "-2": "-1", "0": "1", "1": "0", "2": "1"}.get(index)  # N for M
        if other and self._now(f"{ast.unparse(node)}: [{other}]"):
            node.slice = ast.parse(other, mode="eval").body
        return node


def mutants(formula: Callable[..., int]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every mutant of a formula, with what was changed."""
    source = textwrap.dedent(inspect.getsource(formula))
    number = 0
    while True:
        tree = ast.parse(source)
        function = tree.body[0]
        assert isinstance(function, ast.FunctionDef)
        function.decorator_list = []
        change = _Change(number)
        function.body = [change.visit(statement) for statement in function.body]
        if number >= change.seen:
            return
        names = dict(vars(inspect.getmodule(formula)))
        exec(compile(ast.fix_missing_locations(tree), f"<mutant of {formula.__name__}>", "exec"), names)
        yield change.what, names[formula.__name__]
        number += 1
