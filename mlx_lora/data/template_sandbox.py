"""Template sandbox: Jinja rendering of untrusted chat templates with a limit of steps and of bytes.

Templates come with models that anybody publishes. Jinja's sandbox keeps them from Python's internals; it does not stop
an endless loop or a text of gigabytes. Here loops and macros count their steps, each weighing
as much as the largest value that the template has made; values are measured where they are stored, and operations that
multiply texts before they do. What is left, an expression of input, is bounded by the template's own length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from types import FunctionType
from typing import Any

from jinja2 import Template, nodes
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import pass_context
from markupsafe import Markup

from .template_meter import (
    COSTS,
    FREE,
    METHODS,
    MOST_BITS,
    SIZED,
    Meter,
    TooMuch,
    check_columns,
    filter_bytes,
    method_bytes,
    total_of,
)

# Expressions of these alone have no value that is not in the input or stored already.
PLAIN = (
    nodes.Name,
    nodes.Getattr,
    nodes.Const,
    nodes.Compare,
    nodes.Operand,
    nodes.Test,
    nodes.Not,
    nodes.And,
    nodes.Or,
)
BUFFERED = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)


def _meter(context: Context) -> Meter:
    return context.environment.meter  # type: ignore[attr-defined]


@pass_context
def _step(context: Context, count: int, made: Any = None) -> bool:
    meter = _meter(context)
    meter.step(count)
    if made is not None:
        meter.note(total_of(made))
    return True


@pass_context
def _stored(context: Context, value: Any) -> Any:
    _meter(context).note(total_of(value))
    return value


@pass_context
def _printed(context: Context, value: Any) -> Any:
    _meter(context).take(total_of(value))
    return value


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        check_columns(format_spec)
        return super().format_field(value, format_spec)


class BoundedTemplate(Template):
    """A template whose every rendering has its own meter."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """Render the template with a new meter; raise TooMuch over a limit."""
        environment: Any = self.environment
        given = dict(*args, **kwargs)
        meter = environment.meter = Meter(given)
        parts: list[str] = []
        try:
            for part in self.root_render_func(self.new_context(given)):
                meter.bytes -= len(part)
                if meter.bytes < 0:
                    meter.take(0)
                parts.append(part)
            return "".join(parts)
        except (RecursionError, MemoryError, OverflowError) as error:
            raise TooMuch(f"it ends in a {type(error).__name__}") from None


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with a limit of steps and bytes."""

    intercepted_binops = frozenset(("*", "**", "%"))
    template_class = BoundedTemplate
    meter = Meter({})

    def from_string(self, *args: Any, **kwargs: Any) -> Template:
        """Compile a template with metered filters."""
        for name in COSTS & set(self.filters):
            self.filters[name] = _metered(self, name, self.filters[name])
        self.filters |= {"_step": _step, "_stored": _stored, "_printed": _printed}
        return super().from_string(*args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _instrument(tree)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluate a binary operator after counting its result."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MOST_BITS:
                raise TooMuch(f"it computes with numbers of more than {MOST_BITS} bits")
        elif operator == "*":
            many, value = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(many, int) and many > 0 and isinstance(value, SIZED):
                self.made(many * (total_of(value) + 8))
        elif isinstance(left, (str, bytes)):
            check_columns(str(left))
            self.made(len(left) + total_of(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or macro, and count its arguments and result."""
        if isinstance(function, Macro):
            for value in (*args, *kwargs.values()):
                self.meter.note(total_of(value))
        elif (name := getattr(function, "__name__", "")) in METHODS:
            self.made(method_bytes(function.__self__, name, args, kwargs))
        result = super().call(context, function, *args, **kwargs)
        if isinstance(function, FunctionType):
            self.meter.note(64 * len(result) if isinstance(result, range) else total_of(result))
        return result

    def made(self, size: int) -> None:
        """Count a value that is about to be made."""
        self.meter.take(size)
        self.meter.note(size)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return ``str.format`` with the sandbox's formatter, which looks at widths as well."""
        if super().wrap_str_format(value) is None:
            return None
        text, mapping = value.__self__, value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            if mapping:
                (given,) = args
                args, kwargs = (), dict(given)
            self.made(len(text) + text.count("{") * (total_of(args) + total_of(kwargs)))
            kind = Markup if isinstance(text, Markup) else str
            return kind(_Formatter(self).vformat(text, args, kwargs))

        return formatted


def _instrument(tree: nodes.Template) -> None:
    """Insert the counting into a parsed template."""
    for holder in list(tree.find_all((*BUFFERED, nodes.For))):
        if not isinstance(holder, nodes.For) or holder.recursive:
            for output in holder.find_all(nodes.Output):
                output.nodes = [_filtered(child, "_printed") for child in output.nodes]
    repeated: list[Any] = list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)))
    for node in repeated:
        weight = nodes.Const(sum(1 for _ in node.find_all(nodes.Node)))
        made = []
        if isinstance(node, nodes.For) and not _is_plain(node.iter):
            names = [node.target] if isinstance(node.target, nodes.Name) else list(node.target.find_all(nodes.Name))
            made = [nodes.Tuple([nodes.Name(name.name, "load") for name in names], "load")]
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(nodes.Filter(weight, "_step", [], [], None, None), node.test)
        step = nodes.Filter(weight, "_step", made, [], None, None)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
    for assign in list(tree.find_all(nodes.Assign)):
        assign.node = assign.node if _is_plain(assign.node) else _filtered(assign.node, "_stored")
    for block in list(tree.find_all(nodes.AssignBlock)):
        block.filter = nodes.Filter(block.filter, "_stored", [], [], None, None)
    for scope in list(tree.find_all(nodes.With)):
        scope.values = [_filtered(value, "_stored") for value in scope.values]


def _filtered(node: Any, by: str) -> Any:
    done = isinstance(node, nodes.Const) or (isinstance(node, nodes.Filter) and node.name == by)
    # A text between tags is printed as often as its neighbours.
    return node if done or isinstance(node, nodes.TemplateData) else nodes.Filter(node, by, [], [], None, None)


def _is_plain(node: nodes.Node) -> bool:
    def all_nodes(of: nodes.Node) -> Iterator[nodes.Node]:
        yield of
        yield from of.find_all(nodes.Node)

    return all(isinstance(inner, PLAIN) for inner in all_nodes(node))


def _metered(environment: BoundedEnvironment, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts what it is about to make."""
    if getattr(function, "metered", False):
        return function
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        if name == "tojson" and len(args) == first + 1 and not kwargs and environment.meter.largest <= FREE:
            return function(*args)  # of input, or of something small
        value = args[first] if len(args) > first else None
        environment.made(filter_bytes(name, value, (*args[first + 1 :], *kwargs.values())))
        return function(*args, **kwargs)

    metered.metered = True  # type: ignore[attr-defined]
    return metered
