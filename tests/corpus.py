"""Take a report of `pi0q report` into the corpus of failures: `python -m tests.corpus add FILE [--reason REASON]`.

The entry says what pi0q makes of it today; where that is wrong give the right class with --reason, and the corpus test
fails until the classification is mended. What is in the archive is untrusted: only its text is read, within limits.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

from pi0q.jobs.failures import facts, report
from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.diagnosis import judge
from pi0q.jobs.outcome import Reason
from pi0q.jobs.printable import printable

CORPUS = Path(__file__).parent / "jobs" / "failures" / "corpus"
#: Bytes of one file of an archive, and lines of the log that an entry keeps.
MOST_BYTES, LOG_LINES = 1 << 20, 120


class NoReport(Exception):
    """The file is no report, or one that can't be taken."""


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Return the content of a report and its log. Raises NoReport."""
    texts = dict[str, str]()
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name not in (report.REPORT, report.LOG) or name in texts or not member.isfile():
                    continue
                if member.size > MOST_BYTES:
                    raise NoReport(f"{name} has {member.size} bytes, more than {MOST_BYTES}")
                file = archive.extractfile(member)
                texts[name] = file.read(MOST_BYTES).decode(errors="replace") if file else ""
        content = json.loads(texts[report.REPORT])
    except (OSError, tarfile.TarError, EOFError, KeyError, ValueError, RecursionError) as error:
        raise NoReport(f"{path} is no report of pi0q ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict) or content.get("format") != report.FORMAT:
        raise NoReport(f"{path} has another format than {report.FORMAT}")
    if not isinstance(content.get("facts"), dict) or not content["facts"]:
        raise NoReport(f"{path} holds no facts: its job ended without a trainer, or by an older pi0q")
    return content, texts.get(report.LOG, "")


def add(path: Path, *, reason: str = "", corpus: Path = CORPUS) -> Path:
    """Write the entry of a report; return its file. Raises NoReport."""
    content, log = read(path)
    train = content.get("train")
    told: dict[str, Any] = {
        "facts": content["facts"], "train": train if isinstance(train, dict) else {},
        "lerobot": str(content["facts"].get("lerobot") or ""),
    }  # fmt: skip
    lines = [printable(line, lines=False) for line in log.splitlines()[-LOG_LINES:]]
    evidence = facts.load(told["facts"], train=told["train"], log=lines)
    job = content.get("job")
    name = re.sub(r"[^0-9a-z]", "", str(job.get("id") if isinstance(job, dict) else "").lower())[:12] or "x"
    pi0q = printable(str((content.get("versions") or {}).get("pi0q", "")), lines=False)[:40]
    head = {
        "reason": Reason(reason).value if reason else diagnose(evidence).value,
        "source": f"a report of pi0q {pi0q}", "exit": evidence.exit_code, **told,
        # Where the exception was cut off the log, the log alone can't say it.
        "unhooked_differs": True,
    }  # fmt: skip
    file = corpus / f"report_{name}.log"
    if file.exists():
        raise NoReport(f"{file} is there already")
    # JSON escapes each control character.
    text = "\n".join(
        [f"# {key}: {json.dumps(value, ensure_ascii=True)}" for key, value in head.items()] + ["", *lines, ""]
    )
    file.write_text(text, encoding="utf-8")
    return file


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    adding = verbs.add_parser("add", help="take a report in")
    adding.add_argument("file", type=Path)
    adding.add_argument("--reason", default="", choices=["", *map(str, Reason)], help="the right class, if not today's")
    given = parser.parse_args(argv)
    try:
        content, log = read(given.file)
        file = add(given.file, reason=given.reason)
    except NoReport as error:
        print(f"{error}. Nothing was written.", file=sys.stderr)
        return 1
    found = judge(facts.load(content["facts"], train=content.get("train") or {}, log=log.splitlines()))
    print(f"{file}\n  {found.reason}: {printable(found.detail)}\n  fix: {printable(found.fix)}")
    print("Next: pytest tests/jobs/failures/test_corpus.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
