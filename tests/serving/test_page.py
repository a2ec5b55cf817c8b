"""The page's text and headers, without a browser."""

import base64
import hashlib
import re

import pytest

from reporting import html_report
from serving import page as page_module
from serving.page import page


def policy_of(headers: dict[str, str]) -> dict[str, str]:
    return dict(directive.split(" ", 1) for directive in headers["Content-Security-Policy"].split("; "))


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_policy_allows_the_script_and_the_style_that_are_in_the_page_and_no_other(tag):
    text, headers = page("pair")
    (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    policy = policy_of(headers)
    assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"


def test_headers():
    _, headers = page("pair")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert all(value.isascii() and "\n" not in value for value in headers.values())


def test_no_other_host_and_no_way_from_text_to_markup():
    text, _ = page("pair")
    assert set(re.findall(r"\w+://[^\s'\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser|localStorage", text)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b's", "x\u202ey\x1b"]
)
def test_a_served_name_is_text(name):
    text, _ = page(name)
    plain, _ = page("pair")
    assert re.findall(r"<[a-z]+", text) == re.findall(r"<[a-z]+", plain)
    assert "\u202e" not in text.split("<body")[0]


def of(text: str, pattern: str) -> list[str]:
    return re.findall(pattern, text, re.DOTALL)


def test_page_and_report_look_alike():
    folder = page_module.HERE
    ours, report = (
        (path.read_text(encoding="utf-8")) for path in (folder / "page.css", html_report.HERE / "report.css")
    )
    colors = [
        dict(re.findall(r"(--[\w-]+): (#\w+)", block))
        for css in (ours, report)
        for block in of(css, r":root \{(.*?)\}")
    ]
    for mine, reports in ((colors[0], colors[2]), (colors[1], colors[3])):
        shared = mine.keys() & reports.keys()
        assert len(shared) >= 9 and {name: mine[name] for name in shared} == {name: reports[name] for name in shared}
    mark = r"\nmark(?:::before|::after)?[^{]*\{.*?\}"
    assert of(ours, mark) == of(report, mark)
