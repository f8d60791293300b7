"""Template sandbox: Jinja rendering of untrusted chat templates with a limit of steps and of bytes.

Templates come with models that anybody publishes. Jinja's sandbox keeps them from Python's internals; it does not stop
an endless loop or a text of gigabytes. Here loops and macros count their steps, each weighing
as much as the largest value that the template has made; values are measured where they are stored, and operations that
multiply texts before they do. What is left, an expression of input, is bounded by the template's own length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from types import FunctionType
from typing import Any

from jinja2 import Template, nodes
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import pass_context
from markupsafe import Markup

from ..errors import UserError

# Of one rendering. A step is one repeated evaluation of an expression, some hundred nanoseconds.
MOST_STEPS = 10_000_000
MOST_BYTES = 2**28
# Larger input may take more of both: bytes for each of its bytes, and steps for each of its pages.
BYTES_EACH, PAGE = 128, 12
# Values up to this, and twice the input, are not counted.
FREE = 2**16
# Numbers: no template needs more bits, digits or columns.
MOST_BITS, MOST_DIGITS, MOST_COLUMNS = 4096, 300, 10_000
WIDE = re.compile(r"\d{5,}|%[^a-zA-Z%]*\*")
SIZED = (str, bytes, list, tuple, dict, set, frozenset)
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


class TooMuch(UserError):
    """A chat template that does not terminate, or needs too much memory."""


class Meter:
    """The steps and bytes that are left to a rendering, and the size of the largest value that it has made."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.steps, self.bytes, self.largest, self.factor = MOST_STEPS, MOST_BYTES, 0, 1
        self._given, self._input = given, -1

    @property
    def input(self) -> int:
        """Bytes of the input; measured on first use."""
        if self._input < 0:
            self._input = total_of(dict(self._given))
            self.steps += MOST_STEPS * (self._input >> PAGE)
            self.bytes += BYTES_EACH * self._input
        return self._input

    def step(self, count: int) -> None:
        """Count steps, each as many as the largest value has pages."""
        self.steps -= count * self.factor
        if self.steps < 0 and self.input >= 0 and self.steps < 0:
            raise TooMuch("it takes too many steps; its loops have no sensible end")

    def take(self, count: int) -> None:
        """Count bytes that are about to be made."""
        self.bytes -= count
        if self.bytes < 0 and self.input >= 0 and self.bytes < 0:
            raise TooMuch(f"it makes more than {MOST_BYTES >> 20} MiB of text")

    def note(self, size: int) -> None:
        """Record the size of a value that was made."""
        if size > self.largest:
            self.largest, self.factor = size, 1 + (size >> PAGE)
        if size > FREE and size > FREE + 2 * self.input:
            self.take(size)


def total_of(value: Any) -> int:
    """Return the approximate bytes of a printed value, each list as often as it is held."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, SIZED):
        return 0
    total, waiting = 0, [value]
    while waiting and total <= 4 * MOST_BYTES:
        item = waiting.pop()
        total += 64 + (len(item) if isinstance(item, (str, bytes)) else 0)
        if isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
    return total


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
        _check_columns(format_spec)
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
            _check_columns(str(left))
            self.made(len(left) + total_of(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or macro, and count its arguments and result."""
        if isinstance(function, Macro):
            for value in (*args, *kwargs.values()):
                self.meter.note(total_of(value))
        elif (name := getattr(function, "__name__", "")) in METHODS:
            self.made(_method_bytes(function.__self__, name, args, kwargs))
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
        environment.made(_filter_bytes(name, value, (*args[first + 1 :], *kwargs.values())))
        return function(*args, **kwargs)

    metered.metered = True  # type: ignore[attr-defined]
    return metered


# Filters and methods whose result can be far larger than what they are given.
COSTS = {
    "batch",
    "center",
    "format",
    "indent",
    "join",
    "pprint",
    "replace",
    "round",
    "slice",
    "sum",
    "tojson",
    "wordwrap",
}
METHODS = {"center", "expandtabs", "join", "ljust", "replace", "rjust", "to_bytes", "translate", "zfill"}


def _filter_bytes(name: str, value: Any, options: tuple[Any, ...]) -> int:
    """Return an upper bound of the bytes that a filter makes."""
    taken, numbers = total_of(value), sum(abs(option) for option in options if isinstance(option, int))
    if name == "format":
        _check_columns(str(value))
        return taken + total_of(options)
    if name == "sum" and any(isinstance(option, (list, tuple)) for option in options):
        raise TooMuch("it sums lists")
    if name == "round" and numbers > MOST_DIGITS:
        raise TooMuch(f"it rounds to more than {MOST_DIGITS} digits")
    if name == "replace":
        return taken + _replaced(str(value), *map(str, options[:2]))
    if name == "join":
        pieces = len(value) if hasattr(value, "__len__") else 100_000
        return taken + pieces * total_of(options)
    if name in ("indent", "tojson") and numbers:
        lines = str(value).count("\n") + 1 if name == "indent" else taken // 32
        return taken + numbers * lines + total_of(options) * lines
    if name == "tojson":
        return taken
    return taken + 64 * numbers


def _method_bytes(owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return an upper bound of the bytes that a method of a plain value makes."""
    options = (*args, *kwargs.values())
    taken, numbers = total_of(owner), sum(abs(option) for option in options if isinstance(option, int))
    if name == "replace":
        return taken + (_replaced(owner, *options[:2]) if isinstance(owner, str) else 0)
    if name == "join":
        pieces = len(args[0]) if args and hasattr(args[0], "__len__") else 100_000
        return total_of(args) + taken * pieces
    if name == "translate":
        table = options[0] if options and isinstance(options[0], dict) else {}
        return taken * (1 + max(map(total_of, table.values()), default=0))
    if name == "expandtabs":
        return taken + (numbers or 8) * (str(owner).count("\t") + 1)
    return taken + numbers


def _replaced(text: str, old: Any = "", new: Any = "") -> int:
    """Return an upper bound of the characters that a replacement adds."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return 0
    return (text.count(old) if old else len(text) + 1) * len(new)


def _check_columns(text: str) -> None:
    if WIDE.search(text):
        raise TooMuch(f"it prints columns of {MOST_COLUMNS:,} characters or more")
