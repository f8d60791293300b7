"""Charts as SVG and self-contained HTML pages."""

from .charts import Line, Mark, line_chart
from .pages import render_page, write_page

__all__ = ["Line", "Mark", "line_chart", "render_page", "write_page"]
