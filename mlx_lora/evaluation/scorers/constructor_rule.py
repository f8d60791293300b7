"""Rule of the empty constructor: TypeScript classes are set up by init(), not by their constructor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

CLASSES = ("class_declaration", "abstract_class_declaration", "class")


def constructor_faults(root: Any) -> list[str]:
    """Return a sentence for every class that breaks the rule, or one if there is no class.

    Every class has a constructor that is empty or only calls ``super(...)`` (none at all counts as empty), no
    parameter properties, and an ``init()`` that holds the set-up. ``init()`` may be that of a class of the same code
    which it extends.
    """
    classes = list(_classes(root))
    if not classes:
        return ["the code has no class"]
    parents = {_name(node): node for node in classes}
    faults = []
    for node in classes:
        wrong = [*_in_constructor(node), *_in_init(node, parents)]
        if wrong:
            faults.append(f"class {_name(node)} (line {node.start_point[0] + 1}): {', '.join(wrong)}")
    return faults


def _classes(root: Any) -> Iterator[Any]:
    """Yield all class nodes of a tree, in order; without recursion, since a tree may be deep."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        # The keyword `class` is a node of the same type without a body.
        if node.type in CLASSES and node.child_by_field_name("body") is not None:
            yield node
        waiting += reversed(node.children)


def _name(node: Any) -> str:
    name = node.child_by_field_name("name")
    return _text(name) if name is not None else "without a name"


def _text(node: Any) -> str:
    return node.text.decode("utf-8", "replace")


def _members(node: Any, name: str) -> list[Any]:
    """Return the methods, and the functions in fields, that have this name and a body, static ones left out."""
    found = []
    for member in node.child_by_field_name("body").named_children:
        named = member.child_by_field_name("name")
        if named is None or _text(named) != name or any(child.type == "static" for child in member.children):
            continue
        held = member.child_by_field_name("value") if member.type == "public_field_definition" else member
        if held is not None and held.child_by_field_name("body") is not None:
            found.append(held)
    return found


def _in_constructor(node: Any) -> Iterator[str]:
    for constructor in _members(node, "constructor"):
        for parameter in constructor.child_by_field_name("parameters").named_children:
            if any(c.type in ("accessibility_modifier", "readonly", "override_modifier") for c in parameter.children):
                yield f"its constructor has the parameter property {_text(parameter)!r:.60}"
        statements = _statements(constructor.child_by_field_name("body"))
        others = [statement for statement in statements if not _is_super_call(statement)]
        if others:
            yield f"its constructor does more than super(...): line {others[0].start_point[0] + 1}"
        elif len(statements) > 1:
            yield "its constructor calls super(...) more than once"


def _statements(body: Any) -> list[Any]:
    if body.type != "statement_block":  # `init = () => this.load()`
        return [body]
    return [child for child in body.named_children if child.type not in ("comment", "empty_statement")]


def _is_super_call(statement: Any) -> bool:
    call = statement.named_children[0] if statement.type == "expression_statement" else None
    if call is None or call.type != "call_expression":
        return False
    return call.child_by_field_name("function").type == "super"


def _in_init(node: Any, parents: dict[str, Any]) -> Iterator[str]:
    found, line = _members(node, "init"), {_name(node)}
    parent = _parent(node)
    while not found and parent in parents and parent not in line:
        line.add(parent)
        found, parent = _members(parents[parent], "init"), _parent(parents[parent])
    if not found:
        yield "it has no init() that holds the set-up"
    elif not any(_statements(init.child_by_field_name("body")) for init in found):
        yield "its init() is empty"


def _parent(node: Any) -> str:
    """Return the name of the class that a class extends, "" if it extends none."""
    for heritage in node.children:
        if heritage.type == "class_heritage":
            for clause in heritage.named_children:
                value = clause.child_by_field_name("value") if clause.type == "extends_clause" else None
                if value is not None:
                    return _text(value)
    return ""
