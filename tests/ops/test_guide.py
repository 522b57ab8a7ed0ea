# ruff: noqa: RUF001 (the guide is Chinese)
"""The guide that pi0q takes the place of: each of its steps and of its questions is done, found or cured by pi0q.

`training_guide.md` is that guide, word for word. A heading in it that no test here answers for fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pi0q.jobs import command
from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Spec, parse
from pi0q.ops import doctor
from pi0q.ops.box import autostart, setup, steps
from pi0q.ops.checks import disks, hub, trainer
from pi0q.ops.checks.finding import CheckTarget, Status, check_target
from pi0q.ops.machine import Machine
from pi0q.queue import settings
from pi0q.workers.host import cache_paths
from pi0q.workers.hub import errors, requirements
from pi0q.workers.network import routes as network
from pi0q.workers.runs.progress import PHASES
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.trainer import console, interpreter
from pi0q.workers.trainer.watchdog import COMPILE_SECONDS, Watchdog
from tests import guide

HERE = Path(__file__).parent
GUIDE = guide.TEXT
HEADINGS = re.findall(r"^(?:### (Q: .+|\d\.\d .+)|## (第.步.+))$", GUIDE, re.MULTILINE)
ENTRIES = [question or step for question, step in HEADINGS]
GRAB_BOX = HERE.parents[1] / "jobs" / "examples" / "grab_box.yaml"
TURBO = "export no_proxy=localhost,127.0.0.1\nexport http_proxy=http://10.0.0.1:12798 && export https_proxy=http://10.0.0.1:12798\n"
PAGE = "https://huggingface.co/google/paligemma-3b-pt-224"

Test = Callable[..., None]
#: Heading -> the tests that answer for it.
COVERED: dict[str, list[str]] = {}


def covers(*headings: str) -> Callable[[Test], Test]:
    """This test answers for these headings of the guide."""

    def mark(test: Test) -> Test:
        for heading in headings:
            COVERED.setdefault(heading, []).append(test.__name__)
        return test

    return mark


def box(tmp_path: Path, **env: str) -> CheckTarget:
    """An AutoDL container below `tmp_path`, with its turbo file."""
    (tmp_path / "root/autodl-tmp").mkdir(parents=True, exist_ok=True)
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/network_turbo").write_text(TURBO)
    shell = {"HOME": str(tmp_path / "root"), "PATH": "/usr/bin:/bin", "PI0Q_REDIS_URL": "redis://:pw@203.0.113.9:6379/0",
             "PI0Q_HOME": str(tmp_path / "root/autodl-tmp/pi0q"), "PI0Q_TRAINER_PYTHON": "/bin/false",
             "PI0Q_ROADS": "mirror,turbo,hub", "PI0Q_NETWORK_TURBO": str(tmp_path / "etc/network_turbo")}  # fmt: skip
    return check_target(Machine(root=tmp_path, env=shell | env), box=True)


@pytest.fixture
def spec() -> Spec:
    return parse(GRAB_BOX.read_bytes(), filename="grab_box.yaml")


def test_every_entry_of_the_guide_is_answered_for() -> None:
    assert len([entry for entry in ENTRIES if entry.startswith("Q: ")]) == 6
    assert [entry for entry in ENTRIES if entry not in COVERED] == []
    assert [heading for heading in COVERED if heading not in ENTRIES] == [], "the guide has no such heading"
    assert all(name in globals() for names in COVERED.values() for name in names)


# -- the steps ----------------------------------------------------------------------------------------


@covers("第一步：环境准备", "1.1 激活 conda 环境")
def test_condas_environment_is_found_by_itself_and_judged(tmp_path: Path) -> None:
    python = tmp_path / "conda/envs/lerobot/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert next(interpreter.candidates({"CONDA_EXE": str(tmp_path / "conda/bin/conda")})) == str(python)
    found = list(trainer.environment({"error": "it has no LeRobot"}, python=str(python), gpus=1))
    assert found[0].status is Status.BROKEN and "conda create -y -n lerobot python=3.12" in found[0].cure


@covers("1.2 开启学术加速（AutoDL 专用，访问 HuggingFace/GitHub）", "Q: 网络无法访问 HuggingFace")
def test_the_turbo_file_is_read_where_it_helps_and_nowhere_else(tmp_path: Path) -> None:
    one = box(tmp_path)
    turbo = network.read_turbo(one.settings.network_turbo)
    routes = {route.name: route for route in network.hub_routes(one.settings, one.machine.env, turbo)}
    child = routes["turbo"].environment(one.machine.env)
    assert child["https_proxy"] == "http://10.0.0.1:12798"
    assert "203.0.113.9" in child["no_proxy"], "the queue is never reached through it"
    assert "https_proxy" not in one.machine.env and "https_proxy" not in routes["direct"].environment(one.machine.env)
    told = hub.ways(tuple(routes.values()), [], turbo=True, autodl=True)
    assert told.status is Status.BROKEN and "turbo does not" in told.detail


@covers("1.3 设置 HuggingFace 缓存到数据盘（避免系统盘爆满）", "Q: 系统盘空间不足")
def test_every_cache_is_on_the_data_disk_whatever_the_shell_says(tmp_path: Path) -> None:
    data = tmp_path / "root/autodl-tmp"
    one = box(tmp_path, HF_HOME=str(tmp_path / "root/.cache/huggingface"))
    made = setup.plan(one.machine)
    assert [place for place in steps.cache_environment(made).values() if not Path(place).is_relative_to(data)] == []
    assert disks.caches(one).status is Status.BROKEN and disks.caches(one).cure == "pi0q box setup"


@covers("Q: 系统盘空间不足")
def test_a_full_system_disk_is_found_with_what_fills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "HOG_MIB", 0)
    for name in (".cache/pip", "miniconda3/pkgs"):
        (tmp_path / "root" / name).mkdir(parents=True)
    found = disks.system(box(tmp_path, PI0Q_SYSTEM_DISK_RESERVE_MIB="900000000"))
    assert found.status is Status.BROKEN
    assert "pip cache purge" in found.cure and "conda clean --all -y" in found.cure
    assert found.fix is not None, "`pi0q doctor --fix` does both"


@covers("第二步：HuggingFace 登录", "2.1 登录账号")
def test_a_box_without_a_token_is_told_how_to_log_in(tmp_path: Path) -> None:
    found = next(iter(hub.token(box(tmp_path))))
    assert found.status is Status.BROKEN and "hf auth login" in found.cure and "settings/tokens" in found.cure


@covers("2.2 将 token 复制到数据盘缓存目录", "Q: `GatedRepoError: 401 Unauthorized` for paligemma")
def test_the_token_of_a_login_gets_to_where_hf_home_looks(tmp_path: Path) -> None:
    login = tmp_path / "root/.cache/huggingface/token"
    login.parent.mkdir(parents=True)
    login.write_text("hf_login")
    one = box(tmp_path)
    found = next(iter(hub.token(one)))
    assert found.status is Status.WARNING and found.fix is not None
    # Three ways: a run finds it all the same, the doctor copies it, setup moves it for good.
    steps.Token(setup.plan(one.machine)).do()
    assert (one.settings.hf_home / "token").read_text() == "hf_login"
    assert next(iter(hub.token(one))).status is Status.OK


@covers("2.3 申请 PaliGemma 访问权限", "Q: `GatedRepoError: 401 Unauthorized` for paligemma")
def test_terms_that_were_not_accepted_name_the_page(spec: Spec) -> None:
    gated: type[Exception] = pytest.importorskip("huggingface_hub.errors").GatedRepoError
    told = errors.classify(gated.__new__(gated), "tokenizer", requirements.PALIGEMMA)
    assert told is not None and told.reason is Reason.NEEDS_ACCESS and PAGE in told.detail
    assert PAGE in hub.gated(told, "ada").cure


@covers("第三步：下载数据集", "第四步：下载 pi0 基座模型")
def test_dataset_base_and_tokenizer_are_fetched_before_the_trainer_starts(spec: Spec) -> None:
    wanted = {fetch.kind: fetch.repo_id for fetch in requirements.wanted(spec, resuming=False)}
    repos = re.findall(r"^    (\w+/\S+) \\$|^huggingface-cli download (\w+/\S+)$", GUIDE, re.MULTILINE)
    assert {wanted["dataset"], wanted["base"]} == {one or other for one, other in repos}
    assert wanted["tokenizer"] == requirements.PALIGEMMA


@covers("第五步：启动训练", "5.2 手动命令（完整参数）")
def test_the_example_runs_the_guides_command(spec: Spec) -> None:
    argv = command.fresh(spec, lerobot="0.6.1", output_dir="/data/output", run_id="pi0q-1").argv
    # Each run has a directory of its own on the data disk.
    assert guide.as_pi0q_runs_it("/data/output") <= set(argv)
    caches = cache_paths.caches(
        settings.Settings(home=Path("/root/autodl-tmp/pi0q"), hf_home=Path("/root/autodl-tmp/hf"))
    )
    assert {"HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR"} <= caches.keys()


@covers("5.1 使用训练脚本（推荐）", "Q: `FileExistsError: Output directory already exists`")
def test_a_run_never_meets_an_output_directory_and_never_empties_one(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "abc")
    run.make()
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "kept").touch()
    run.set_output_aside()
    assert not run.output.exists(), "LeRobot refuses one that is there"
    assert (run.path / "output.old/checkpoints/kept").exists(), "and nothing was removed"
    assert RunDirectory(tmp_path / "runs" / "def").output != run.output


@covers("第六步：后台运行（screen）")
def test_the_worker_needs_no_screen_and_comes_back_after_a_restart(tmp_path: Path) -> None:
    made = setup.plan(box(tmp_path).machine)
    *_, start, worker = setup.steps_of(made)
    assert isinstance(worker, steps.Worker) and isinstance(start, autostart.Hook)
    start.do()
    assert "setsid nohup" in (made.home / "boot.sh").read_text()
    assert str(made.home / "boot.sh") in (tmp_path / "etc/autodl.sh").read_text()


# -- the questions ------------------------------------------------------------------------------------


@covers("Q: 训练启动后长时间卡在 AUTOTUNE")
def test_a_long_compile_is_shown_is_not_taken_for_a_hang_and_is_kept(spec: Spec) -> None:
    assert PHASES["compiling"] == "compiling"
    assert spec.train["policy.compile_model"] is True
    watch = Watchdog(600.0, compiles=True, now=0.0)
    watch.event({"event": "compiling"}, 1.0)
    assert watch.limit() >= COMPILE_SECONDS >= 30 * 60, "the guide speaks of 10 to 30 minutes"
    caches = cache_paths.caches(settings.Settings(home=Path("/data/pi0q"), hf_home=Path("/data/hf")))
    assert caches["TORCHINDUCTOR_CACHE_DIR"].startswith("/data/") and caches["TRITON_CACHE_DIR"].startswith("/data/")


@covers("Q: 出现 `OutOfResources: shared memory` 错误")
def test_what_autotune_passes_over_is_no_error_of_the_run() -> None:
    line = "OutOfResources: out of resource: shared memory, Required: 180224, Hardware limit: 101376."
    assert console.Console(9).line(line, 0.0) is None
    assert console.compiling(line)
    assert diagnose(Evidence(exit_code=0, error=Raised.of("RuntimeError", line))) is Reason.FINISHED
    assert diagnose(Evidence(exit_code=1, error=Raised.of("RuntimeError", line))) is Reason.TRAINER_FAILED, (
        "least of all is it the GPU's memory"
    )


def test_the_doctor_makes_all_these_checks() -> None:
    homes = {check.__module__.rpartition(".")[2] for check in doctor.CHECKS}
    assert homes >= {"disks", "hub", "trainer", "check", "server", "install"}
