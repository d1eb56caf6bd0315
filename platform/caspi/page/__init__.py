"""What all our HTML reports share: one look, and figures written the same way. Each is one file that needs no other."""

from pathlib import Path

import jinja2

from caspi.text import direction


def environment(templates: Path) -> jinja2.Environment:
    """Templates of a folder; `{% include "style.css" %}` is the look. Escapes: transcripts are other people's text."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"count": "{:,}".format, "direction": direction, "hours": hours, "number": number, "share": share}
    return made


def share(value: float) -> str:
    """`12.3%`; what is there but rounds to nothing is not called nothing."""
    return f"{value:.1%}" if value >= 0.0005 or not value else "<0.1%"


def number(value: float) -> str:
    """Three digits, or all that stand before the point, and a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
    return text.replace("-", "−")


def hours(value: float) -> str:
    """`1.2 h`, and minutes or seconds where hours would say nothing."""
    if value >= 1:
        return f"{value:,.0f} h" if value >= 100 else f"{value:.1f} h"
    return f"{60 * value:.1f} min" if value * 60 >= 1 else f"{3600 * value:.0f} s"
