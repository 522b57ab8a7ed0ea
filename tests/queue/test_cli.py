from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pi0q.ops.local import server as servers
from pi0q.queue import cli
from pi0q.queue.cli import VERBS
from pi0q.queue.store import Store

from ..conftest import PI0Q, Command, JobDriver

READING = [["ls"], ["show", "x"], ["logs", "x"], ["watch", "x"], ["cancel", "x"], ["boxes"]]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_help(verb: str, call: Command) -> None:
    # Help is for those who have set up nothing yet, or wrongly.
    answer = call(verb, "--help", PI0Q_REDIS_URL="nonsense")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"Usage: pi0q {verb} ")


def test_help_lists_the_verbs_and_the_one_setting(pi0q: Command) -> None:
    answer = pi0q("--help")
    assert answer.returncode == 0
    assert all(f"  {verb} " in answer.stdout for verb in VERBS)
    assert "PI0Q_REDIS_URL" in answer.stdout
    assert answer.stdout == pi0q("-h").stdout


def test_version(call: Command) -> None:
    answer = call("--version")
    assert answer.returncode == 0
    assert answer.stdout.startswith("pi0q ")


@pytest.mark.parametrize(
    ("typed", "meant"), [("sumbit", "submit"), ("list", None), ("wacth", "watch"), ("boxess", "boxes")]
)
def test_a_mistyped_verb_is_guessed(typed: str, meant: str | None, call: Command) -> None:
    answer = call(typed)
    assert answer.returncode == 2
    assert f"No such command '{typed}'." in answer.stderr
    assert (f"Did you mean '{meant}'?" in answer.stderr) is (meant is not None)


def test_a_wrong_option_or_a_missing_word(call: Command) -> None:
    assert call("ls", "--jsn").returncode == 2
    assert call("show").returncode == 2
    assert call("cancel").returncode == 2


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_an_unreachable_server_is_told_and_not_shown_as_a_traceback(args: list[str], call: Command) -> None:
    port = servers.choose_port(0, default=0, option="--port")
    answer = call(*args, PI0Q_REDIS_URL=f"redis://ada:s3cret@127.0.0.1:{port}/0")
    assert (answer.returncode, answer.stdout) == (4, "")
    assert answer.stderr.startswith(f"pi0q: The queue's server at redis://127.0.0.1:{port}/0 (from PI0Q_REDIS_URL)")
    assert "Traceback" not in answer.stderr and "s3cret" not in answer.stderr


def test_a_submit_to_an_unreachable_server(call: Command) -> None:
    spec = "train:\n  dataset: {repo_id: a/b}\n  policy: {type: act, push_to_hub: false}\nname: x\n"
    answer = call("submit", "-", stdin=spec, PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    assert (answer.returncode, answer.stdout) == (4, "")
    assert "Nothing was changed." in answer.stderr


@pytest.mark.refused
def test_a_wrong_password(pi0q: Command, server: servers.Server) -> None:
    answer = pi0q("ls", PI0Q_REDIS_URL=f"redis://:wrong@127.0.0.1:{server.port}/0")
    assert answer.returncode == 4
    assert "refuses the user or password" in answer.stderr
    assert "wrong" not in answer.stderr


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:6379", "redis://:s3cret@host:port/0", "redis://h/0?a=b"]
)
def test_a_bad_address_is_wrong_usage(url: str, call: Command) -> None:
    answer = call("ls", PI0Q_REDIS_URL=url)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "PI0Q_REDIS_URL" in answer.stderr
    assert "Traceback" not in answer.stderr and "s3cret" not in answer.stderr


def test_a_bad_settings_file_is_told_with_all_its_faults(call: Command, tmp_path: Path) -> None:
    config = tmp_path / "config" / "pi0q" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('lease_secnds = 5\nfence = 7\nbox = "a b"\n')
    answer = call("ls")
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[0] == "pi0q: Invalid pi0q settings:"
    assert all(word in answer.stderr for word in ("unknown setting lease_secnds", "fence", "box"))
    assert answer.stderr.count(str(config)) == 3


def test_the_settings_file_is_heeded(call: Command, server: servers.Server, store: Store, tmp_path: Path) -> None:
    config = tmp_path / "config" / "pi0q" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'redis_url = "{server.url}"\nprefix = "{store.prefix}"\n')
    job = JobDriver(store).submit()
    answer = call("ls", "--json", PI0Q_REDIS_URL="", PI0Q_PREFIX="")
    assert [found["id"] for found in json.loads(answer.stdout)] == [job]


def test_what_is_not_found_and_what_is(call: Command, driver: JobDriver) -> None:
    driver.submit("grab_box")
    assert call("show", "grab_box").returncode == 0
    assert call("show", "grab").returncode == 3


@pytest.mark.parametrize(("verb", "needs"), [("worker", "celery"), ("flower", "celery")])
def test_a_verb_whose_extra_is_missing_says_which(verb: str, needs: str, env: dict[str, str]) -> None:
    """As after a bare `pip install pi0q`."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['celery', 'kombu', 'flower', 'psutil', 'tornado']))\n"
        "from pi0q.queue.cli import main\n"
        f"main([{verb!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"pi0q: `pi0q {verb}` needs {needs}, which is not installed here.",
        f"Fix: pip install 'pi0q[{VERBS[verb][1]}]'",
    ]


@pytest.mark.parametrize("args", READING[:1], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error_worth_a_traceback(
    args: list[str], env: dict[str, str], driver: JobDriver
) -> None:
    for _ in range(3):
        driver.submit()
    command = [sys.executable, "-m", "pi0q.queue.cli", *args]
    done = subprocess.run(
        ["sh", "-c", '"$@" | true', "sh", *command], env=env, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-8"])
def test_a_terminal_may_lack_a_character_of_a_name(encoding: str, env: dict[str, str], driver: JobDriver) -> None:
    job = driver.submit("grab_böx_测试")

    def said(*args: str) -> str:
        there = env | {"PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
        done = subprocess.run([*PI0Q, *args], env=there, capture_output=True, check=True)
        return done.stdout.decode(encoding, errors="replace")

    assert all("grab_b" in said(*args) for args in (["ls"], ["show", job], ["why", job]))
    assert [found["name"] for found in json.loads(said("ls", "--json"))] == ["grab_böx_测试"]


def test_what_users_are_told_to_type_can_be_typed() -> None:
    options = {verb: {name for param in _command(verb).params for name in param.opts} for verb in VERBS}
    unknown = [
        f"{path}: {said[0]}"
        for top in ("jobs", "queue")
        for path in (Path(cli.__file__).parents[1] / top).rglob("*.py")
        for said in re.finditer(r"`pi0q (\w+)([^`\n]*)`", path.read_text(encoding="utf-8"))
        if said[1] not in VERBS or not {*re.findall(r"--[a-z-]+", said[2])} <= options[said[1]]
    ]
    assert unknown == []


def _command(verb: str) -> click.Command:
    command = cli.root.get_command(click.Context(cli.root), verb)
    assert command is not None
    return command


@pytest.mark.parametrize("args", [["ls"], ["ls", "--json"], ["--help"]], ids=" ".join)
def test_full_disk_under_standard_output_is_told(args: list[str], env: dict[str, str], driver: JobDriver) -> None:
    driver.submit()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PI0Q, *args], env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("pi0q: Standard output can't be written: No space left on device.")
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_error_with_json_is_json_on_standard_output(call: Command, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\n")
    (tmp_path / "b.yaml").write_text("name: x\n")
    unknown, wrong, many = (
        call("show", "nosuchjob", "--json"), call("ls", "--json", "--bogus"),
        call("submit", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--json"),
    )  # fmt: skip
    assert [json.loads(answer.stdout)["error"]["exit_code"] for answer in (unknown, wrong, many)] == [3, 2, 2]
    assert [answer.returncode for answer in (unknown, wrong, many)] == [3, 2, 2]
    faults = json.loads(many.stdout)["faults"]
    assert {(Path(fault["file"]).name, fault["line"], fault["key"]) for fault in faults} >= {
        ("a.yaml", 1, "a"), ("b.yaml", 1, "train"),
    }  # fmt: skip
    assert all(answer.stderr.startswith("pi0q: ") for answer in (unknown, wrong, many))


@pytest.mark.parametrize("verb", [["up", "--no-worker"], ["worker"]], ids=" ".join)
def test_home_that_is_a_file_is_told(verb: list[str], call: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = call(*verb, PI0Q_HOME=str(tmp_path / "file"))
    assert answer.returncode == 2
    assert "PI0Q_HOME" in answer.stderr and "Fix: set PI0Q_HOME to a directory" in answer.stderr


def test_name_that_no_box_can_have_is_told(call: Command) -> None:
    answer = call("worker", "--name", "bad name/..")
    assert answer.returncode == 2 and "can't be the name of a box" in answer.stderr


def test_settings_that_are_no_numbers_are_told_in_words(call: Command) -> None:
    answer = call("ls", PI0Q_FENCE="abc", PI0Q_FAKE_GPUS="x")
    assert answer.returncode == 2
    assert "it must be a number, not 'abc'" in answer.stderr and "it must look like [" in answer.stderr
