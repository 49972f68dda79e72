"""Parts of a page as HTML. Every text that is given is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sft_jax.runs.storage import AnyPath


def text(value: Any) -> str:
    """Escapes a value."""
    return html.escape(str(value))


def cell(value: Any, digits: int = 4) -> str:
    """Formats a value: floats with some digits, None as a dash, lists with commas."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return text(f"{value:.{digits}f}")
    if isinstance(value, list | tuple):
        return ", ".join(cell(item, digits) for item in value) or "-"
    return text(value)


def section(title: str, *parts: str) -> str:
    """Makes a section under a heading; nothing if all its parts are empty."""
    content = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{text(title)}</h2>\n{content}\n</section>" if content else ""


def side_by_side(*parts: str) -> str:
    """Puts parts beside each other where there is room."""
    content = "\n".join(filter(None, parts))
    return f'<div class="beside">\n{content}\n</div>' if content else ""


def tiles(values: Mapping[str, Any]) -> str:
    """Shows a few values in large type."""
    items = (
        f"<div><b>{cell(value, 3)}</b><span>{text(name.replace('_', ' '))}</span></div>"
        for name, value in values.items()
    )
    return f'<div class="tiles">{"".join(items)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 4) -> str:
    """Makes a table whose first column holds names, and the others values; nothing without rows."""
    body = "".join(
        f"<tr><th>{cell(name)}</th>{''.join(f'<td>{cell(value, digits)}</td>' for value in values)}"
        "</tr>\n"
        for name, *values in rows
    )
    if not body:
        return ""
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
        "</table></div>"
    )


def bars(values: Mapping[str, tuple[float, str]]) -> str:
    """Makes a table of bars: length from 0 to 1, and text, by name."""
    rows = "".join(
        f'<tr><th>{text(name)}</th><td class="bar"><i style="width:{100 * length:.2f}%"></i></td>'
        f"<td>{text(label)}</td></tr>\n"
        for name, (length, label) in values.items()
    )
    return f'<table class="bars"><tbody>{rows}</tbody></table>'


def picture(path: AnyPath, caption: str) -> str:
    """Embeds a PNG file; nothing if it does not exist."""
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def preformatted(content: str) -> str:
    """Shows text with a fixed pitch."""
    return f"<pre>{text(content)}</pre>"
