"""Pages in two languages say the same, and no page names a file, command or setting that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pi0q.queue.cli import VERBS
from pi0q.queue.setting_readers import READERS

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh.md"))
#: Each page that exists in English and Chinese.
PAIRS = [(ENGLISH, CHINESE)] + [
    (ROOT / "docs" / page.name, page) for page in sorted((ROOT / "docs" / "zh").glob("*.md"))
]
PAIR = pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda path: path.name)
PAGES = sorted({ENGLISH, CHINESE, *(ROOT / "docs").rglob("*.md")})
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
#: Lines that the README may have.
LONGEST = 150

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
    pattern = re.compile(rf"(?:^(?:\$ )?|: ){command} ([a-z]+(?:-[a-z]+)*)")
    return {word for piece in code(readme) for word in pattern.findall(piece)}


def test_readme_has_at_most_150_lines() -> None:
    assert all(len(readme.read_text(encoding="utf-8").splitlines()) <= LONGEST for readme in (ENGLISH, CHINESE))


@PAIR
def test_pair_has_the_same_headings(english: Path, chinese: Path) -> None:
    levels = [HEADING.findall(prose(page)) for page in (english, chinese)]
    assert levels[0] == levels[1] != []


@PAIR
def test_pair_fenced_blocks_differ_only_in_comments(english: Path, chinese: Path) -> None:
    blocks = [[(kind, without_words(kind, block)) for kind, block in fences(page)] for page in (english, chinese)]
    assert blocks[0] == blocks[1]


@PAIR
def test_pair_indented_blocks_name_the_same(english: Path, chinese: Path) -> None:
    """What stands before a comment, or before the words of a list of folders."""
    lines = [[re.split(r"\s{2,}", line)[0] for line in INDENTED.findall(prose(page))] for page in (english, chinese)]
    assert lines[0] == lines[1]


@PAIR
def test_pair_sections_hold_the_same_code(english: Path, chinese: Path) -> None:
    names = [[spans(section) for section in sections(page)] for page in (english, chinese)]
    assert names[0] == names[1]
    assert any(names[0])


@PAIR
def test_pair_tables_have_the_same_shape(english: Path, chinese: Path) -> None:
    assert tables(english) == tables(chinese)


@PAIR
def test_pair_links_differ_only_in_language(english: Path, chinese: Path) -> None:
    targets = [
        sorted(in_either_language((picture, str((page.parent / target).resolve()))) for picture, target in links(page))
        for page in (english, chinese)
    ]
    # Each page links to its counterpart.
    assert len(targets[0]) == len(targets[1])
    assert {Path(target).name for _, target in targets[0]} == {Path(target).name for _, target in targets[1]}


def test_readme_names_demo_and_all_tiers_of_tests() -> None:
    assert {"make demo", "make test", "make test-all", "make test-versions"} <= {
        re.split(r"\s{2,}", line)[0] for line in INDENTED.findall(prose(ENGLISH))
    }


@EACH
def test_every_linked_file_exists(page: Path) -> None:
    local = [target.partition("#")[0] for _, target in links(page) if "://" not in target]
    assert [target for target in local if target and not (page.parent / target).exists()] == []


@EACH
def test_every_verb_is_a_command(page: Path) -> None:
    assert mentioned(page, "pi0q") - VERBS.keys() == set()


def test_readme_names_every_command() -> None:
    assert VERBS.keys() - mentioned(ENGLISH, "pi0q") == set()


@EACH
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert mentioned(page, "make") - targets == set()


@EACH
def test_every_setting_exists(page: Path) -> None:
    named = set(re.findall(r"\bPI0Q_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    known = {f"PI0Q_{name.upper()}" for name in READERS}
    # Switches of the tests are no settings.
    switches = {name for name in named if name.startswith("PI0Q_TEST_")}
    assert named - known - switches - {"PI0Q_REDIS_BIN"} == set()


def test_settings_page_names_every_setting() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in READERS if f"PI0Q_{name.upper()}" not in text] == []
