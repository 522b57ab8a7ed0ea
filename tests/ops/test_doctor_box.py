"""The doctor on a box: accounts, the trainer's environment, the cards."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.ops.box import check as care
from pi0q.ops.box import control, pidfile
from pi0q.ops.checks import hub, trainer
from pi0q.ops.checks.finding import CheckTarget, Finding, Status, check_target
from pi0q.ops.machine import Machine
from pi0q.workers.host import probe
from pi0q.workers.host.probe import Gpu
from pi0q.workers.hub import access
from pi0q.workers.hub.requirements import PALIGEMMA
from pi0q.workers.network import routes
from pi0q.workers.trainer.health_check import inspect_trainer
from pi0q.workers.trainer.inspect_main import runs
from tests import real_lerobot
from tests.conftest import PATIENCE
from tests.ops.test_doctor import by_name
from tests.standin_hub import TOKEN, Fault, StandInHub
from tests.workers.standin_wandb import StandInWandB

GATED = "https://huggingface.co/google/paligemma-3b-pt-224"


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    monkeypatch.setattr(routes, "PROBE_SECONDS", PATIENCE)
    monkeypatch.setattr(access, "SILENCE_SECONDS", PATIENCE)
    with StandInHub() as made:
        made.account = "ada"
        made.commit("model", PALIGEMMA, {"tokenizer.json": b"{}"}, gated=True)
        yield made


def box(tmp_path: Path, standin: StandInHub | None = None, **more: str) -> CheckTarget:
    """A box whose Hub is the stand-in, or nowhere, as is its WandB."""
    url = standin.url if standin else "http://127.0.0.1:1"
    shell = {
        "HOME": str(tmp_path),
        "PI0Q_HOME": str(tmp_path / "data"),
        "PI0Q_HF_ENDPOINT": url,
        "PI0Q_ROADS": "mirror,turbo,hub",
        "WANDB_BASE_URL": "http://127.0.0.1:1",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    return check_target(Machine(env=shell | more), box=True)


def token(tmp_path: Path, text: str = TOKEN, place: str = "data/huggingface") -> Path:
    file = tmp_path / place / "token"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    file.chmod(0o600)
    return file


# -- accounts -----------------------------------------------------------------------------------------


def test_a_good_token_that_may_read_the_tokenizer(tmp_path: Path, standin: StandInHub) -> None:
    token(tmp_path)
    found = by_name(list(hub.check(box(tmp_path, standin))))
    assert [found[name].status for name in ("network", "token file", "token", "gated tokenizer")] == [Status.OK] * 4
    assert "ada" in found["token"].detail


def test_terms_that_were_not_accepted_name_the_page_to_press_on(tmp_path: Path, standin: StandInHub) -> None:
    token(tmp_path, "hf_stranger")
    standin.strangers.add("hf_stranger")
    found = by_name(list(hub.check(box(tmp_path, standin))))["gated tokenizer"]
    assert found.status is Status.BROKEN and GATED in found.cure and "as stranger" in found.cure


def test_a_hub_that_is_ill_says_nothing_of_the_account(tmp_path: Path, standin: StandInHub) -> None:
    token(tmp_path)
    standin.faults.append(Fault(path="/resolve/", status=503))
    found = by_name(list(hub.check(box(tmp_path, standin))))
    assert found["token"].status is Status.OK and found["gated tokenizer"].status is Status.SKIPPED
    assert "HTTP 503" in found["gated tokenizer"].detail
    standin.faults.append(Fault(path="/whoami", status=503))
    found = by_name(list(hub.check(box(tmp_path, standin))))
    assert found["token"].status is Status.SKIPPED and "gated tokenizer" not in found


def test_a_token_that_the_hub_refuses(tmp_path: Path, standin: StandInHub) -> None:
    token(tmp_path, "hf_revoked")
    found = by_name(list(hub.check(box(tmp_path, standin))))
    assert found["token"].status is Status.BROKEN and "hf auth login" in found["token"].cure
    assert "gated tokenizer" not in found
    assert "hf_revoked" not in repr(found)


def test_a_token_that_lies_where_hf_home_does_not_look_is_copied_by_fix(tmp_path: Path) -> None:
    login = token(tmp_path, place=".cache/huggingface")
    found = by_name(list(hub.token(box(tmp_path))))["token file"]
    here = tmp_path / "data/huggingface/token"
    assert (found.status, found.cure) == (Status.WARNING, f"install -m 600 {login} {here}")
    assert found.fix is not None
    found.fix()
    assert here.read_text() == TOKEN and here.stat().st_mode & 0o777 == 0o600
    assert by_name(list(hub.token(box(tmp_path))))["token file"].status is Status.OK
    # As a full disk leaves it.
    here.write_text("")
    assert by_name(list(hub.token(box(tmp_path))))["token file"].status is Status.WARNING


def test_no_token_at_all(tmp_path: Path) -> None:
    found = by_name(list(hub.token(box(tmp_path))))["token file"]
    assert found.status is Status.BROKEN and f"HF_HOME={tmp_path}/data/huggingface hf auth login" in found.cure


def test_without_a_network_the_turbo_file_is_named(tmp_path: Path) -> None:
    found = by_name(list(hub.check(box(tmp_path))))
    assert found["network"].status is Status.BROKEN
    assert found["token"].status is Status.SKIPPED


def test_the_turbo_files_proxy_is_a_way(tmp_path: Path, standin: StandInHub) -> None:
    turbo = tmp_path / "network_turbo"
    turbo.write_text("export http_proxy=http://127.0.0.1:9 && export https_proxy=http://127.0.0.1:9\n")
    one = box(tmp_path, standin, PI0Q_NETWORK_TURBO=str(turbo), https_proxy="http://127.0.0.1:9")
    found = by_name(list(hub.check(one)))
    assert "turbo" in found["network"].detail and "direct answers" in found["network"].detail
    assert found["proxy"].status is Status.WARNING and "unset http_proxy" in found["proxy"].cure


def test_what_the_settings_want_of_modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(hub.modelscope(box(tmp_path))) == []
    one = box(tmp_path, PI0Q_ROADS="hub,modelscope", MODELSCOPE_API_TOKEN="ms-secret")
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    (missing,) = hub.modelscope(one)
    assert missing.status is Status.WARNING and missing.cure == "pip install 'pi0q[modelscope]'"
    monkeypatch.setattr(hub, "find_spec", lambda name: name)
    (found,) = hub.modelscope(one)
    assert found.status is Status.OK and "with your MODELSCOPE_API_TOKEN" in found.detail
    assert "ms-secret" not in repr(found)


def test_roads_that_this_box_does_not_have(tmp_path: Path, standin: StandInHub) -> None:
    found = by_name(list(hub.check(box(tmp_path, standin, PI0Q_ROADS="turbo"))))["network"]
    assert found.status is Status.BROKEN and found.cure == "export PI0Q_ROADS=mirror,turbo,hub,modelscope"


@pytest.mark.parametrize(("key", "status"), [("k" * 40, Status.OK), ("bad", Status.WARNING), ("", Status.WARNING)])
def test_the_wandb_key(tmp_path: Path, key: str, status: Status) -> None:
    with StandInWandB() as wandb:
        wandb.keys["k" * 40] = "ada"
        found = hub.wandb(box(tmp_path, WANDB_BASE_URL=wandb.url, WANDB_API_KEY=key))
    assert found.status is status
    assert found.cure == "" if status is Status.OK else found.cure.startswith("wandb login")


def test_the_wandb_key_of_a_login(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {'k' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    with StandInWandB() as wandb:
        wandb.keys["k" * 40] = "ada"
        assert hub.wandb(box(tmp_path, WANDB_BASE_URL=wandb.url)).detail == "WandB knows it as ada"


# -- the worker ---------------------------------------------------------------------------------------


def test_a_dead_worker_of_a_box_is_started_by_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = box(tmp_path)
    found = by_name(list(care.check(one)))
    assert found["worker"].cure == found["start at boot"].cure == "pi0q box setup"
    home = one.settings.home
    home.mkdir()
    (home / "boot.sh").touch()
    found = by_name(list(care.check(one)))
    assert (found["worker"].status, found["worker"].cure) == (Status.BROKEN, "pi0q box start")
    asked: list[Path] = []

    def begin(home: Path, _: object) -> pidfile.ProcessRef:
        asked.append(home)
        return pidfile.ProcessRef(pid=7, start=1)

    monkeypatch.setattr(control, "start", begin)
    assert found["worker"].fix is not None and "was started (supervisor: process 7)" in found["worker"].fix()
    assert asked == [home]
    with (home / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert by_name(list(care.check(one)))["worker"].detail == "runs, started by hand"


# -- the trainer's environment ------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "python": "3.12.1", "lerobot": "0.6.1", "torch": "2.8.0+cu128", "built": "12.8", "cuda": True, "wandb": "0.21",
    "unmet": [], "train_error": "", "pi0_error": "",
    "cards": [{"name": "RTX PRO 6000", "arch": "sm_120", "fits": True}],
}  # fmt: skip


def judged(gpus: int = 1, **seen: Any) -> dict[str, Finding]:
    return by_name(list(trainer.environment(GOOD | seen, python="/conda/python", gpus=gpus)))


def test_a_right_environment() -> None:
    found = judged()
    assert {name: one.status for name, one in found.items()} == {"trainer": Status.OK, "cuda": Status.OK}


@pytest.mark.parametrize(
    ("seen", "name", "status", "told"),
    [
        ({"error": "it ended with 1"}, "trainer", Status.BROKEN, "it ended with 1"),
        ({"lerobot": None}, "trainer", Status.BROKEN, "LeRobot is not installed"),
        ({"torch": None, "torch_error": "ImportError: libcudnn"}, "trainer", Status.BROKEN, "libcudnn"),
        ({"train_error": "ImportError: cannot import name"}, "trainer", Status.BROKEN, "cannot import name"),
        ({"unmet": ["transformers 4.40 is not >=5.4"]}, "trainer", Status.WARNING, "transformers 4.40"),
        (
            {"pi0_error": "ValueError: An incorrect transformer version"},
            "pi0",
            Status.WARNING,
            "ACT and other small policies",
        ),
        ({"wandb": None}, "wandb package", Status.WARNING, "wandb.enable"),
        ({"cuda": False, "cuda_error": "driver too old"}, "cuda", Status.BROKEN, "driver too old"),
        ({"cuda": False, "built": None}, "cuda", Status.BROKEN, "built without CUDA"),
        ({"cards": [{"name": "RTX PRO 6000", "arch": "sm_120", "fits": False}]}, "cuda", Status.BROKEN, "no kernels"),
    ],
)
def test_what_is_wrong_with_an_environment_has_its_cure(
    seen: dict[str, Any], name: str, status: Status, told: str
) -> None:
    found = judged(**seen)[name]
    assert found.status is status and told in found.detail
    assert "pip install" in found.cure or "conda create" in found.cure


def test_a_machine_without_a_card_is_not_told_of_torch() -> None:
    assert "cuda" not in judged(gpus=0, cuda=False)


@pytest.mark.parametrize(
    ("built", "card", "yes"),
    [("sm_86", (8, 9), True), ("sm_90", (8, 9), False), ("sm_90a", (9, 0), True), ("sm_90", (12, 0), False),
     ("compute_90", (12, 0), True), ("sm_120", (12, 0), True), ("odd", (12, 0), False)],
)  # fmt: skip
def test_which_kernels_a_card_runs(built: str, card: tuple[int, int], yes: bool) -> None:
    assert runs(built, *card) is yes


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    assert "error" in inspect_trainer("/bin/false", {})
    assert "No such file" in inspect_trainer(str(tmp_path / "python"), {})["error"]


def test_this_interpreter_is_looked_at_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LeRobot that is a fake: it has a train script, and no decoder."""
    fake = Path(__file__).parents[1] / "fake_lerobot"
    (tmp_path / "torch.py").write_text("raise ImportError('libcudnn.so.9: no such file')\n")
    seen = inspect_trainer(sys.executable, {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{fake}"})
    assert seen["lerobot"] == "0.6.1" and seen["python"].startswith("3.")
    assert (seen["torch"], seen["torch_error"]) == (None, "ImportError: libcudnn.so.9: no such file")
    assert (seen["train_error"], seen["decoders"]) == ("", {})


@pytest.mark.real
@real_lerobot.NEEDED
def test_the_real_lerobot_of_this_interpreter_is_found_right() -> None:
    seen = inspect_trainer(sys.executable, {"PATH": "/usr/bin:/bin"})
    assert seen["train_error"] == "" and seen["torch"], json.dumps(seen)
    assert (
        by_name(list(trainer.environment(seen, python=sys.executable, gpus=0)))["trainer"].status is not Status.BROKEN
    )


# -- cards and memory ---------------------------------------------------------------------------------


def test_no_card_on_autodl_says_how_to_start_the_container() -> None:
    assert trainer.gpu((), "NVML: no permission", autodl=True).cure.startswith("start the container with its GPU")
    gpu = Gpu(uuid="1", name="RTX PRO 6000", total_mib=97 * 1024, free_mib=90 * 1024)
    assert trainer.gpu((gpu,), "", autodl=True).detail == "RTX PRO 6000 90.0 of 97.0 GiB free"


@pytest.mark.parametrize(
    ("limit", "status"),
    [(None, Status.OK), (2 << 30, Status.BROKEN), (8 << 30, Status.WARNING), (20 << 30, Status.WARNING),
     (99 << 30, Status.OK)],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2])
def test_memory_check_reads_the_limit_of_both_cgroup_versions(
    tmp_path: Path, version: int, limit: int | None, status: Status
) -> None:
    memory_group(tmp_path, version, "", limit)
    assert trainer.memory(check_target(Machine(root=tmp_path, env={"HOME": str(tmp_path)}), box=True)).status is status


@pytest.mark.parametrize("version", [1, 2])
def test_memory_check_finds_the_limit_of_a_parent_group(tmp_path: Path, version: int) -> None:
    memory_group(tmp_path, version, "pod/job", None)
    memory_group(tmp_path, version, "pod", 8 << 30)
    found = trainer.memory(check_target(Machine(root=tmp_path, env={"HOME": str(tmp_path)}), box=True))
    assert found.status is Status.WARNING and "may use 8.0 GiB" in found.detail


def memory_group(root: Path, version: int, path: str, limit: int | None) -> None:
    """Write the files of a memory cgroup; the first one made is this process's own."""
    cgroups, own = root / "sys/fs/cgroup", root / "proc/self/cgroup"
    group = (cgroups if version == 2 else cgroups / "memory") / path
    group.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (cgroups / "cgroup.controllers").write_text("memory\n")
        (group / "memory.max").write_text(f"{'max' if limit is None else limit}\n")
    else:
        (group / "memory.limit_in_bytes").write_text(f"{(1 << 63) - 4096 if limit is None else limit}\n")
    own.parent.mkdir(parents=True, exist_ok=True)
    if not own.exists():
        own.write_text(f"0::/{path}\n" if version == 2 else f"4:memory:/{path}\n")


def test_no_gpu_mode_is_named_and_nothing_of_lerobot_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_group(tmp_path, 2, "", 2 << 30)
    monkeypatch.setattr(probe, "nvml_gpus", lambda: ((), "NVML: no permission"))
    env = {"HOME": str(tmp_path), "PI0Q_TRAINER_PYTHON": "/bin/false"}
    found = by_name(list(trainer.check(check_target(Machine(root=tmp_path, env=env), box=True))))
    assert found["gpu"].status is Status.WARNING
    assert found["gpu"].detail == "no-GPU mode (无卡模式): fetches inputs of waiting jobs, claims nothing"
    assert found["gpu"].cure.startswith("start the container with its GPU")
    assert (found["memory"].status, found["trainer"].status) == (Status.OK, Status.SKIPPED)
