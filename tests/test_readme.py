"""The two READMEs say the same, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pi0q.queue.cli import VERBS
from pi0q.queue.settings import READERS

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh.md"))
BOTH = pytest.mark.parametrize("readme", (ENGLISH, CHINESE), ids=lambda path: path.name)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(.+)$", re.MULTILINE)
HEADING = re.compile(r"^(#+) .+$", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)]+)\)")
COMMENT = re.compile(r"(^|\s+)#.*$", re.MULTILINE)
#: What a mermaid chart says of an arrow.
LABEL = re.compile(r":.*$", re.MULTILINE)


def fences(readme: Path) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return FENCE.findall(readme.read_text(encoding="utf-8"))


def prose(readme: Path) -> str:
    """All but the fenced blocks."""
    return FENCE.sub("", readme.read_text(encoding="utf-8"))


def sections(readme: Path) -> list[str]:
    """What stands before the first heading and below each, without blocks of code."""
    return re.split(HEADING.pattern, INDENTED.sub("", prose(readme)), flags=re.MULTILINE)[::2]


def without_words(kind: str, code: str) -> str:
    """A block without what is translated."""
    return (LABEL if kind == "mermaid" else COMMENT).sub("", code)


def spans(text: str) -> set[str]:
    """Inline code, whether or not a line ends within it."""
    return {" ".join(span.split()) for span in INLINE.findall(text)}


def links(readme: Path) -> list[tuple[bool, str]]:
    """Whether it is a picture, and where it leads."""
    return [(mark == "!", target) for mark, target in LINK.findall(prose(readme))]


def in_either_language(link: tuple[bool, str]) -> tuple[bool, str]:
    """Without the heading that it leads to, which is translated, and the language of its page."""
    picture, target = link
    return picture, target.partition("#")[0].replace(".zh.md", ".md")


def tables(readme: Path) -> list[int]:
    """The cells of each row of all tables."""
    return [line.count("|") for line in prose(readme).splitlines() if line.startswith("|")]


def code(readme: Path) -> list[str]:
    """Every line or piece that is set as code, and the pictures' names."""
    blocks = [line for _, block in fences(readme) for line in block.splitlines()]
    pictures = re.findall(r"!\[([^\]]*)\]", prose(readme))
    return [*blocks, *INDENTED.findall(prose(readme)), *spans(INDENTED.sub("", prose(readme))), *pictures]


def mentioned(readme: Path, command: str) -> set[str]:
    """The words that follow a command where it begins a piece of code, or what the program says to type."""
    pattern = re.compile(rf"(?:^(?:\$ )?|: ){command} ([a-z]+)")
    return {word for piece in code(readme) for word in pattern.findall(piece)}


def test_the_headings_are_in_step() -> None:
    levels = [HEADING.findall(prose(readme)) for readme in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]
    assert levels[0].count("##") > 5


def test_the_fenced_blocks_differ_in_nothing_but_comments() -> None:
    english, chinese = (
        [(kind, without_words(kind, block)) for kind, block in fences(readme)] for readme in (ENGLISH, CHINESE)
    )
    assert english == chinese
    assert {kind for kind, _ in english} == {"console", "mermaid", "yaml"}


def test_the_indented_blocks_name_the_same() -> None:
    """What stands before a comment, or before the words of a list of folders."""
    english, chinese = (
        [re.split(r"\s{2,}", line)[0] for line in INDENTED.findall(prose(readme))] for readme in (ENGLISH, CHINESE)
    )
    assert english == chinese
    assert {"make demo", "make test"} <= set(english)


def test_the_same_names_stand_in_each_section() -> None:
    english, chinese = ([spans(section) for section in sections(readme)] for readme in (ENGLISH, CHINESE))
    assert english == chinese
    assert any(english)


def test_the_tables_are_in_step() -> None:
    assert tables(ENGLISH) == tables(CHINESE) != []


def test_the_links_are_the_same_but_for_the_language() -> None:
    english, chinese = ([in_either_language(link) for link in links(readme)] for readme in (ENGLISH, CHINESE))
    assert sorted(english) == sorted(chinese)
    assert [target for picture, target in english if picture] == [target for picture, target in chinese if picture]


@BOTH
def test_every_linked_file_is_there(readme: Path) -> None:
    local = [target.partition("#")[0] for _, target in links(readme) if "://" not in target]
    assert local
    assert [target for target in local if not (ROOT / target).exists()] == []


@BOTH
def test_every_verb_is_one(readme: Path) -> None:
    verbs = mentioned(readme, "pi0q")
    assert {"submit", "watch", "up", "worker"} <= verbs
    assert verbs - VERBS.keys() == set()


@BOTH
def test_every_make_target_is_one(readme: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wanted = mentioned(readme, "make")
    assert {"demo", "test"} <= wanted
    assert wanted - targets == set()


@BOTH
def test_every_setting_is_one(readme: Path) -> None:
    named = set(re.findall(r"\bPI0Q_[A-Z_]*[A-Z]\b", readme.read_text(encoding="utf-8")))
    known = {f"PI0Q_{name.upper()}" for name in READERS}
    assert "PI0Q_REDIS_URL" in named
    assert named - known - {"PI0Q_REDIS_BIN"} == set()
