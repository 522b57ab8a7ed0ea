"""`pi0q get`, `diff`, `help`, `completion`, and what other tools call the verbs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi0q.jobs.spec import parse
from pi0q.queue.cli import ELSEWHERE, VERBS
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver

FILE = """\
train:
  dataset: {repo_id: local/grab_box, root: /data/grab_box}
  policy: {type: act, push_to_hub: false}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "job.yaml").write_text(FILE)
    return str(tmp_path / "job.yaml")


def submitted(call: Command, *words: str) -> str:
    return str(json.loads(call("submit", *words, "--json").stdout)["id"])


def test_get_prints_a_file_that_gives_the_same_job(call: Command, file: str, tmp_path: Path) -> None:
    job = submitted(call, file, "--set", "train.seed=2", "--priority", "high")
    (tmp_path / "again.yaml").write_text(call("get", job).stdout)
    same = submitted(call, str(tmp_path / "again.yaml"), "--again")
    assert call("diff", job, same).stdout == "job and job have the same settings.\n"
    assert parse((tmp_path / "again.yaml").read_text(), filename="x").train["seed"] == 2
    assert json.loads(call("get", job, "--json").stdout)["priority"] == "high"
    assert call("get", "nosuchjob").returncode == 3


def test_diff_shows_what_two_jobs_have_different(call: Command, file: str) -> None:
    one = submitted(call, file)
    other = submitted(call, file, "--name", "other", "--set", "train.batch_size=4")
    lines = call("diff", one, other).stdout.splitlines()
    assert [line.split() for line in lines] == [["KEY", "job", "other"], ["train.batch_size", "-", "4"]]
    assert json.loads(call("diff", one, other, "--json").stdout) == {"train.batch_size": [None, 4]}


def test_submit_set_changes_one_job_and_not_the_file(call: Command, file: str, store: Store) -> None:
    job = submitted(call, file, "--set", "train.seed=2", "--name", "second")
    record = store.get(job)
    assert (record.name, record.spec["train"]["seed"]) == ("second", 2)
    wrong = call("submit", file, "--set", "train.sed=2")
    assert wrong.returncode == 2 and "  --set: train.sed is not" in wrong.stderr
    assert call("submit", file, file, "--name", "x").returncode == 2
    assert call("submit", file, "--set", "seed").returncode == 2
    assert store.page().counts.live == 1
    assert Path(file).read_text() == FILE


def test_submit_of_many_files_is_a_line_each_and_a_sum(call: Command, tmp_path: Path) -> None:
    files = [tmp_path / f"sweep_{number}.yaml" for number in range(7)]
    for one in files:
        one.write_text(FILE)
    *lines, total = call("submit", *map(str, files)).stdout.splitlines()
    assert [line.split()[1] for line in lines] == [one.stem for one in files]
    assert total == "Queued 7 of 7 files.  See them with: pi0q ls --state queued"


@pytest.mark.parametrize("word", sorted(ELSEWHERE))
def test_verb_of_another_tool_is_answered_with_ours(word: str, call: Command) -> None:
    assert word not in VERBS and ELSEWHERE[word] in VERBS
    if word in ("ps", "delete", "nodes"):
        answer = call(word, "x")
        assert answer.returncode == 2 and f"Did you mean '{ELSEWHERE[word]}'?" in answer.stderr


def test_help_of_a_verb_is_that_of_its_option(call: Command) -> None:
    assert call("help", "hold").stdout == call("hold", "--help").stdout
    assert call("help").stdout == call("--help").stdout
    assert call("help", "nosuchverb").returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str, call: Command) -> None:
    text = call("completion", shell).stdout
    assert "_PI0Q_COMPLETE" in text and "pi0q" in text


def test_completion_offers_names_and_ids_of_jobs(pi0q: Command, driver: JobDriver) -> None:
    job = driver.submit("grab_box", job_id="abc123abc123")
    driver.submit("other")

    def offered(line: str) -> list[str]:
        words = {"_PI0Q_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return [one.partition(",")[2] for one in pi0q(**words).stdout.splitlines()]

    assert offered("pi0q show gr") == ["grab_box"]
    assert offered("pi0q cancel other abc") == [job]
    assert "checkpoint" in offered("pi0q che")
    dead = {"PI0Q_REDIS_URL": "redis://127.0.0.1:1/0"}
    words = {"_PI0Q_COMPLETE": "bash_complete", "COMP_WORDS": "pi0q show gr", "COMP_CWORD": "2"}
    answer = pi0q(**dead, **words)
    assert (answer.stdout.strip(), answer.stderr) == ("", "")
