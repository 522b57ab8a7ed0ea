"""`pi0q report`: what it holds, that it is shown and asked for, and that the tests can take it in."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.failures.diagnosis import judge
from pi0q.jobs.failures.evidence import Evidence, Memory
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.outcome import Reason
from pi0q.jobs.transition import ended
from pi0q.queue.store import Store
from tests import corpus
from tests.conftest import Command, JobDriver
from tests.jobs.failures import test_corpus

TRAIN = {
    "dataset.repo_id": "hopper/secret_boxes", "policy.type": "pi05", "policy.pretrained_path": "lerobot/pi05_base",
    "wandb.entity": "navy", "wandb.notes": "for the admiral", "batch_size": 8,
}  # fmt: skip
LOG = """\
loading /home/grace/data and hf_s3cretS3cretS3cretS3cret
Traceback (most recent call last):
  File "/data/pi0q/runs/x.py", line 1, in main
RuntimeError: no module for hopper/secret_boxes on gpu-box-7
"""
FAILED = Evidence(
    exit_code=1, step=3, lerobot="0.6.1", train=TRAIN, memory=Memory(limit_mib=1024, used_mib=100, container=True),
    error=Raised.of("OSError", "We can't read https://huggingface.co/datasets/hopper/secret_boxes/resolve/main/x"),
    causes=(Raised(kind="ConnectError", text="[Errno 111] Connection refused", module="httpx"),),
)  # fmt: skip


@pytest.fixture
def failed(driver: JobDriver, store: Store) -> str:
    job = driver.submit("secret_job", spec={"train": TRAIN}, submitter="grace@laptop-of-grace")
    epoch = driver.run(job, "gpu-box-7")
    driver.report(job, epoch, log=LOG)
    found = judge(FAILED)
    store.announce_box("gpu-box-7", "id", {"status": "ready", "version": "9.8", "home": "/data/pi0q", "gpus": "[]"})
    assert store.move(job, ended(store.get(job), epoch, Reason.SPEC_REFUSED, found.detail, evidence=found.to_json()))
    return job


def content(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {name.rpartition("/")[2]: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]


def test_it_holds_record_evidence_log_and_versions_without_names(call: Command, failed: str, tmp_path: Path) -> None:
    file = tmp_path / "r.tar.gz"
    answer = call("report", failed, "--output", str(file), "--yes")
    assert answer.returncode == 0, answer.stderr
    assert f"{file} will hold:" in answer.stdout and "owner" in answer.stdout
    held = content(file)
    assert set(held) == {"README.txt", "report.json", "log.txt"}
    told = json.loads(held["report.json"])
    assert told["facts"]["error"]["type"] == "OSError" and told["facts"]["causes"][0]["module"] == "httpx"
    assert told["facts"]["memory"] == {"limit_mib": 1024, "used_mib": 100, "container": True}
    assert told["train"]["batch_size"] == 8 and told["train"]["policy.pretrained_path"] == "lerobot/pi05_base"
    assert told["versions"]["pi0q of the box"] == "9.8" and told["facts"]["lerobot"] == "0.6.1"
    everything = "".join(held.values())
    for name in ("grace", "hopper", "navy", "admiral", "laptop", "gpu-box-7", "hf_s3cret", "secret_job", "/data/pi0q/"):
        assert name not in everything, name
    assert "/home/<user-1>/data" in held["log.txt"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_is_shown_and_asked_for(pi0q: Command, failed: str, tmp_path: Path) -> None:
    file = tmp_path / "r.tar.gz"
    refused = pi0q("report", failed, "--output", str(file), stdin="show\nno\n")
    assert refused.returncode == 1 and not file.exists() and "Nothing was written" in refused.stderr
    assert "--- report.json" in refused.stdout and '"OSError"' in refused.stdout
    silent = pi0q("report", failed, "--output", str(file), stdin="")
    assert silent.returncode == 1 and not file.exists()
    agreed = pi0q("report", failed, "--output", str(file), stdin="y\n")
    assert agreed.returncode == 0 and file.exists()


def test_a_file_that_is_there_is_not_written_over(call: Command, failed: str, tmp_path: Path) -> None:
    file = tmp_path / "r.tar.gz"
    file.write_text("mine")
    answer = call("report", failed, "--output", str(file), "--yes")
    assert answer.returncode == 2 and file.read_text() == "mine" and "Fix: pi0q report" in answer.stderr
    nowhere = call("report", failed, "--output", str(tmp_path / "no" / "r.tar.gz"), "--yes")
    assert nowhere.returncode == 2 and "can't be written" in nowhere.stderr


def test_a_job_that_has_not_failed_has_no_report(call: Command, driver: JobDriver) -> None:
    answer = call("report", driver.submit(), "--yes")
    assert answer.returncode == 2 and "has not failed" in answer.stderr
    assert call("report", "nosuchjob", "--yes").returncode == 3


def test_json_says_where_it_is(call: Command, failed: str, tmp_path: Path) -> None:
    answer = call("report", failed, "--output", str(tmp_path / "r.tar.gz"), "--json", "--yes")
    told = json.loads(answer.stdout)
    assert told["id"] == failed and told["file"].endswith("r.tar.gz") and told["replaced"]["owner"] >= 1
    assert call("report", failed, "--json").returncode == 2


def test_the_corpus_takes_it_in_with_one_command(
    call: Command, failed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.tar.gz"
    call("report", failed, "--output", str(file), "--yes")
    capsys.readouterr()
    monkeypatch.setattr(corpus.add, "__kwdefaults__", {"reason": "", "corpus": tmp_path})
    assert corpus.main(["add", str(file)]) == 0
    (entry,) = tmp_path.glob("report_*.log")
    log = test_corpus.read(entry)
    assert log.head["reason"] == "network" and "network:" in capsys.readouterr().out
    test_corpus.test_each_has_its_class(log)
    test_corpus.test_what_is_read_is_never_a_bare_exit_code(log)
    assert corpus.main(["add", str(file)]) == 1, "not twice"
    entry.unlink()
    assert corpus.main(["add", str(file), "--reason", "not_cached"]) == 0
    with pytest.raises(AssertionError):
        test_corpus.test_each_has_its_class(test_corpus.read(entry))


def packed(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("_json", ".json").replace("_txt", ".txt"))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "members",
    [
        {}, {"log_txt": b"x"}, {"report_json": b"{"}, {"report_json": b"[]"}, {"report_json": b'{"format": 99}'},
        {"report_json": b'{"format": 1, "facts": {}}'}, {"report_json": b'{"format": 1, "facts": [1]}'},
        {"report_json": b"[" * 100_000}, {"report_json": b" " * (2 << 20)},
    ],
)  # fmt: skip
def test_the_corpus_refuses_what_is_no_report(members: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(corpus.NoReport):
        corpus.add(packed(tmp_path / "x.tar.gz", **members), corpus=tmp_path)
    assert not list(tmp_path.glob("*.log"))


def test_the_corpus_writes_no_path_and_no_control_character_of_an_archive(tmp_path: Path) -> None:
    told = {"format": 1, "facts": {"exit": 1, "error": {"type": "E\n# reason: \"x\"", "message": "\x1b[2J"}},
            "job": {"id": "../../etc/x"}, "train": {"a\n\n": "b\n"}}  # fmt: skip
    file = packed(
        tmp_path / "x.tar.gz",
        **{"__tmp__report_json": json.dumps(told).encode(), "log_txt": b"a\x1b[2J\n# reason: 1\n"},
    )
    entry = corpus.add(file, corpus=tmp_path)
    assert entry.parent == tmp_path and "\x1b" not in entry.read_text()
    assert test_corpus.read(entry).head["reason"] == "trainer_failed"
    assert corpus.main(["add", "/nowhere.tar.gz"]) == 1
