"""Self-contained HTML pages from jinja2 templates: styles and scripts inline, no network requests."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..errors import visible
from ..files import write_atomic
from .charts import CHART_STYLE, line_chart
from .heat_map import HEAT_STYLE
from .interval_bar import BAR_STYLE

# Drawn twice, since text in a scaled-down drawing is illegible; the page shows the one that fits.
WIDTHS = {"wide": 720, "narrow": 360}


def responsive_chart(title: str, lines: Any, **options: Any) -> Markup:
    """Draw a chart for wide and for narrow screens; see ``line_chart``."""
    drawn = [(name, line_chart(title, lines, width=width, **options)) for name, width in WIDTHS.items()]
    if not drawn[0][1]:
        return Markup("")
    figures = Markup("").join(Markup('<div class="{}">{}</div>').format(*pair) for pair in drawn)
    return Markup('<figure><figcaption>{}</figcaption>{}<output aria-live="polite"></output></figure>').format(
        title, figures
    )


def _printable(value: Any) -> Any:
    """Return text with control characters and unpaired surrogates, which a page cannot hold, made visible."""
    if not isinstance(value, str):
        return value
    return Markup(visible(value)) if isinstance(value, Markup) else visible(value)


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mlx_lora.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.globals |= {"chart_style": Markup(CHART_STYLE), "bar_style": Markup(BAR_STYLE)}
    environment.globals["heat_style"] = Markup(HEAT_STYLE)
    return environment


def render_page(template: str, **values: Any) -> str:
    """Render a template of ``templates/``; every value is escaped."""
    return _environment().get_template(template).render(**values)


def write_page(file: Path, template: str, **values: Any) -> None:
    """Write a page atomically; see ``render_page``."""
    write_atomic(file, render_page(template, **values))
