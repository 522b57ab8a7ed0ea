"""What the trainer gets to see of the box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.host import cache_paths
from pi0q.workers.trainer import launch


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("WANDB_SETTINGS", "LOGIN_TOKEN"):
        monkeypatch.setattr(cache_paths, name, tmp_path / "none")
    return Settings(home=tmp_path / "home", hf_home=tmp_path / "hf")


def built(settings: Settings, base: dict[str, str] | None = None, **how: Any) -> dict[str, str]:
    usual: dict[str, Any] = {"gpus": (), "command": {}, "marks": {}}
    return launch.build(base or {}, settings, **usual | how)


@pytest.mark.parametrize(
    "name",
    [
        "PI0Q_REDIS_URL",
        "CELERY_BROKER_URL",
        "ACCELERATE_USE_FSDP",
        "RANK",
        "WORLD_SIZE",
        "SWANLAB_API_KEY",
        "MODELSCOPE_API_TOKEN",
    ],
)
def test_what_is_not_its_business_is_left_out(settings: Settings, name: str) -> None:
    assert name not in built(settings, {name: "x", "PATH": "/bin"})
    assert built(settings, {name: "x", "PATH": "/bin"})["PATH"] == "/bin"


def test_its_tokens_are_passed_on(settings: Settings) -> None:
    base = {"HF_TOKEN": "hf_x", "WANDB_API_KEY": "y", "HTTPS_PROXY": "z", "HF_ENDPOINT": "e"}
    assert base.items() <= built(settings, base).items()


def test_every_cache_is_on_the_data_disk(settings: Settings) -> None:
    env = built(settings, {"TMPDIR": "/tmp", "HF_HOME": "/root/.cache"})
    for name in ("HF_HOME", "HF_XET_CACHE", "WANDB_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR"):
        assert settings.home.parent in Path(env[name]).parents
    wandb = [name for name in env if name.startswith("WANDB_")]
    assert len(wandb) == 4 and all(settings.home in Path(env[name]).parents for name in wandb)
    launch.make_directories(env)
    assert Path(env["TMPDIR"]).is_dir() and Path(env["HF_HOME"]).is_dir()


def test_settings_that_its_user_chose_for_wandb_hold(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache_paths, "WANDB_SETTINGS", tmp_path / "settings")
    assert "WANDB_CONFIG_DIR" in built(settings)
    (tmp_path / "settings").write_text("[default]")
    assert "WANDB_CONFIG_DIR" not in built(settings)


def test_it_sees_the_gpus_promised_to_it_and_no_other(settings: Settings) -> None:
    base = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert built(settings, base, gpus=["GPU-a", "GPU-b"])["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert built(settings, base)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in built(settings, gpus=["FAKE-box-a-0"])


def test_the_job_wins_over_the_box_and_the_runner_over_the_job(settings: Settings) -> None:
    env = built(
        settings, {"A": "box", "B": "box"}, command={"A": "job", "PI0Q_JOB": "job"}, marks={"PI0Q_JOB": "runner"}
    )
    assert (env["A"], env["B"], env["PI0Q_JOB"]) == ("job", "box", "runner")


def test_a_login_in_the_users_home_is_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache_paths, "LOGIN_TOKEN", tmp_path / "token")
    assert "HF_TOKEN_PATH" not in built(settings)
    (tmp_path / "token").write_text("hf_x")
    assert built(settings)["HF_TOKEN_PATH"] == str(tmp_path / "token")
    settings.hf_home.mkdir()
    (settings.hf_home / "token").write_text("hf_y")
    assert "HF_TOKEN_PATH" not in built(settings)


@pytest.mark.parametrize(
    ("places", "left"),
    [
        ((), set()),
        (("files",), {"HF_TOKEN"}),
        (("wandb",), {"WANDB_API_KEY"}),
        (("files", "wandb"), {"HF_TOKEN", "WANDB_API_KEY"}),
    ],
)
def test_trainer_gets_only_the_tokens_that_its_job_needs(places: tuple[str, ...], left: set[str]) -> None:
    env = {"HF_TOKEN": "hf_x", "WANDB_API_KEY": "y", "PATH": "/bin"}
    assert set(launch.without_unneeded_tokens(env, places)) == {"PATH", *left}
