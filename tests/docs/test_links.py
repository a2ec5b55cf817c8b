"""README.md and docs/*.md: links and anchors lead somewhere, and the README is short and names every page."""

import re
from pathlib import Path

import pytest
from runs import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """A page without its fenced blocks, in which brackets are no links and # begins no heading."""
    return re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """What a fragment of a link may name: GitHub's names of the headings, the second of one name with a number."""
    names: set[str] = set()
    for heading in re.findall(r"(?m)^#{1,6} +(.+?) *$", text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = next(i for i in range(1000) if (f"{name}-{i}" if i else name) not in names)
        names.add(f"{name}-{number}" if number else name)
    return names


def broken(path: Path, text: str) -> list[str]:
    """The links of a page's text that lead nowhere in this repository."""
    found = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if name and not (target.exists() and target.is_relative_to(REPOSITORY)):
            found.append(link)
        elif fragment and (target.suffix != ".md" or fragment not in anchors(prose(target) if name else text)):
            found.append(link)
    return found


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert broken(path, prose(path)) == []


@pytest.mark.parametrize(
    ("link", "is_broken"),
    [
        ("local.md", False),
        ("local.md#the-two-engines", False),
        ("#here-or-there", False),
        ("#here-or-there-1", False),
        ("../README.md#citation", False),
        ("https://example.org/nothing", False),
        ("lokal.md", True),
        ("local.md#the-three-engines", True),
        ("#here-or-there-2", True),
        ("../../etc", True),
        ("report.png#part", True),
    ],
)
def test_what_counts_as_broken(link, is_broken):
    text = f"# A page\n\n## Here, or there?\n\n## Here, or there?\n\n[a link]({link})\n"
    assert broken(REPOSITORY / "docs/page.md", text) == [link] * is_broken


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160


def test_the_readme_names_every_page_with_its_question():
    rows = dict(re.findall(r"(?m)^\| \[\w+\]\(docs/(\w+)\.md\) \| (.+\?) \|$", README.read_text(encoding="utf-8")))
    assert sorted(rows) == [path.stem for path in PAGES]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_begins_with_its_question(path):
    title, _, rest = path.read_text(encoding="utf-8").partition("\n\n")
    first = rest.partition("\n\n")[0]
    assert title.startswith("# ") and "\n" not in title
    assert re.match(r"(?s)(How|Where|What|Which)\b((?!\. ).)*\?", first)
