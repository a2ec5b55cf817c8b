"""The chat page of serve_nudged.py: one self-contained HTML page, which asks nobody but the server that it comes from.

What models write is data in it, never markup: the script shows it through textContent alone, and the headers forbid the rest.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from command.console import visible

HERE = Path(__file__).resolve().parent
# One script element, in this order; the first is the report's, too.
SCRIPTS = ("../reporting/untrusted_text.js", "page_stream.js", "page_answers.js", "page.js")


def _source_hash(text: str) -> str:
    """A source for a Content-Security-Policy: the inline script or style with this text, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _policy(script: str, css: str) -> str:
    directives = {
        "default-src": "'none'",
        "script-src": _source_hash(script),
        "style-src": _source_hash(css),
        "connect-src": "'self'",
        "img-src": "data:",  # the icon
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def page(served_name: str) -> tuple[str, dict[str, str]]:
    """The page at `/`.

    Args:
        served_name: the pair's model name; `NAME@base` and `NAME@nudging` are its models alone.

    Returns:
        The HTML text, with style and script in it, and the headers to send with it.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    css = (HERE / "page.css").read_text(encoding="utf-8")
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    text = environment.get_template("page.html.j2").render(
        model=served_name, name=visible(served_name), css=Markup(css), script=Markup(script)
    )
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _policy(script, css),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return text, headers
