"""What README.md and docs/*.md tell their readers to type: fenced blocks of commands, and commands in running text."""

import re
from dataclasses import dataclass

from runs import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# Blocks in these languages are commands; those without one are, if a line of theirs begins as a command does.
SHELLS = ("bash", "sh", "shell", "console")
NO_COMMANDS = ("python", "text", "toml", "json", "nginx", "bibtex")
BEGINS_A_COMMAND = re.compile(
    r"(?m)^(\$ )?(([A-Z_]+=\S+ )*(python3?|pip|curl|export|lm_eval|inspect|open-webui|vllm)|(\./)?scripts/\S+\.sh)\b"
)
FENCED = re.compile(r"(?ms)^( *)```(\w*)[^\n]*\n(.*?)^ *```")
INLINE = re.compile(r"(?s)(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
INLINE_COMMAND = re.compile(r"(python3? \S+\.py|(\./)?scripts/\S+\.(sh|py)|pip install .+)( |$)")


@dataclass(frozen=True)
class Commands:
    """Commands of a page, in the order in which a reader types them; `line` is where they begin."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fenced_commands() -> list[Commands]:
    """All blocks of commands."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in FENCED.finditer(text):
            indent, language, body = block.groups()
            if language in SHELLS or (not language and BEGINS_A_COMMAND.search(body)):
                lines = [line.removeprefix(indent).removeprefix("$ ") for line in body.splitlines()]
                found.append(Commands(_name(path), _line(text, block.start()) + 1, "\n".join(lines)))
    return found


def languages() -> set[str]:
    """The languages of all blocks, "" among them."""
    return {block[2] for path in PAGES for block in FENCED.finditer(path.read_text(encoding="utf-8"))}


def inline_commands() -> list[Commands]:
    """Commands within running text that name a file of this repository, or install something, each once."""
    found = {}
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        # Fences are blanked out, not cut, so that lines keep their numbers.
        prose = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
        for quoted in INLINE.finditer(prose):
            command = " ".join(quoted[2].split())
            if INLINE_COMMAND.match(command):
                if re.match(r"scripts/\S+\.py", command):  # a file, which is a command behind this
                    command = f"python {command}"
                found.setdefault(command, Commands(_name(path), _line(prose, quoted.start()), command))
    return list(found.values())


def _name(path) -> str:
    return str(path.relative_to(REPOSITORY))


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
