"""`make test-again`: the tests that failed in the last run, once more and one at a time.

A test that passes now raced with the load of the others. Such a test is named, so that its race is looked into; it does
not end CI. A test that fails twice does, and so does a run in which more than `MOST` failed: that is no race.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Where pytest keeps which tests failed.
FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
#: Failed tests of a whole run above which none is run again.
MOST = 3


def failed(path: Path) -> list[str]:
    """Return the tests that failed in the last run; none where pytest kept nothing."""
    if not path.is_file():
        return []
    found: Mapping[str, bool] = json.loads(path.read_text())
    return sorted(found)


def again(tests: Sequence[str], run: Callable[[Sequence[str]], int], say: Callable[[str], None]) -> int:
    """Run failed tests once more; return the exit code: 0 when there were some, few, and all pass now."""
    if not 0 < len(tests) <= MOST:
        say(f"{len(tests)} tests are known to have failed; 1 to {MOST} are run again. None was.")
        return 1
    code = run(tests)
    if code == 0:
        say(
            "Failed beside other tests, passed alone (a race: look into it):\n"
            + "\n".join(f"  {name}" for name in tests)
        )
    return code


def _run(tests: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(again(failed(FAILED), _run, print))
