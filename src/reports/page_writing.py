"""Writing a page as one HTML file, by report.html.j2."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.base.files import write_if_different
from src.reports.page_parts import Page


def write_page(page: Page, path: Path) -> None:
    """Write the page, whole or not at all; one that is there already and says the same stays as it is."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = environment.get_template("report.html.j2").render(page=page).encode("utf-8", "replace")
    write_if_different(path, content)
