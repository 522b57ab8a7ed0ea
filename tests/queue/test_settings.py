from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.queue import settings
from pi0q.queue.setting_readers import READERS
from pi0q.queue.settings import Settings, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where the settings file of `bare` would lie."""
    path = tmp_path / "pi0q" / "config.toml"
    path.parent.mkdir()
    return path


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """A user who has set nothing."""
    return {"XDG_CONFIG_HOME": str(tmp_path), "PI0Q_HOME": str(tmp_path / "home")}


def test_every_setting_can_be_set() -> None:
    assert set(READERS) == {field.name for field in fields(Settings)} - {"sources"}


def test_the_defaults_are_those_of_the_class(bare: dict[str, str], tmp_path: Path) -> None:
    chosen = load(bare)
    assert chosen == Settings(
        home=tmp_path / "home",
        hf_home=tmp_path / "home" / "huggingface",
        dataset_roots=(tmp_path / "home" / "datasets",),
        sources={"home": "PI0Q_HOME"},
    )
    assert chosen.runs == tmp_path / "home" / "runs"


def test_a_variable_goes_over_the_file_and_each_says_where_it_is_from(bare: dict[str, str], config: Path) -> None:
    config.write_text('redis_url = "redis://file/0"\nlease_seconds = 60\n')
    chosen = load(bare | {"PI0Q_REDIS_URL": "redis://variable/0"})
    assert (chosen.redis_url, chosen.lease_seconds) == ("redis://variable/0", 60.0)
    assert chosen.sources["redis_url"] == "PI0Q_REDIS_URL"
    assert chosen.sources["lease_seconds"] == str(config)


def test_an_empty_variable_is_none(bare: dict[str, str]) -> None:
    assert load(bare | {"PI0Q_REDIS_URL": ""}).redis_url == Settings().redis_url


def test_lists_and_tables_of_the_file(bare: dict[str, str], config: Path, tmp_path: Path) -> None:
    roots = [str(tmp_path / "a"), str(tmp_path / "b")]
    config.write_text(f"dataset_roots = {roots}\n[[fake_gpus]]\nname = 'H100'\ntotal_gib = 80\n")
    chosen = load(bare)
    assert chosen.dataset_roots == (tmp_path / "a", tmp_path / "b")
    assert chosen.fake_gpus == ({"name": "H100", "total_gib": 80},)
    assert load(bare | {"PI0Q_DATASET_ROOTS": ":".join(roots)}).dataset_roots == chosen.dataset_roots


def test_the_owners_lists(bare: dict[str, str], config: Path, tmp_path: Path) -> None:
    config.write_text(
        f'allow_repos = ["lerobot/*", "me/x"]\ncopy_roots = ["{tmp_path}"]\nallow_code = "~/code.sha256"\n'
    )
    chosen = load(bare)
    assert chosen.allow_repos == ("lerobot/*", "me/x")
    assert (chosen.copy_roots, chosen.weights_roots) == ((tmp_path,), ())
    assert chosen.allow_code == Path("~/code.sha256").expanduser()
    assert load(bare | {"PI0Q_ALLOW_REPOS": "a/b, c/*"}).allow_repos == ("a/b", "c/*")
    with pytest.raises(UsageError, match="allow_repos: it must hold names like"):
        load(bare | {"PI0Q_ALLOW_REPOS": "https://hub.example/a"})


def test_all_faults_are_told_at_once(bare: dict[str, str], config: Path) -> None:
    config.write_text('redis_ulr = "redis://x/0"\nlease_seconds = "long"\nfence = 2020-01-01\nbox = "a b"\n')
    with pytest.raises(UsageError) as told:
        load(bare | {"PI0Q_REDIS_URL": "localhost:6379", "PI0Q_FAKE_GPUS": "[1]", "PI0Q_WAIT_FOR_BOX": "nan"})
    text = str(told.value)
    assert text.startswith("Invalid pi0q settings:")
    assert f"{config}: unknown setting redis_ulr; known are allow_code, allow_repos, box, copy_roots" in text
    for name in ("lease_seconds", "fence", "box"):
        assert f"{config}: can't read {name}: " in text
    for name in ("REDIS_URL", "FAKE_GPUS", "WAIT_FOR_BOX"):
        assert f"PI0Q_{name}: can't read {name.lower()}: " in text
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize("value", ["5", "true", "2020-01-01", "{a = 1}", "[[1]]", "[1, [2]]"])
@pytest.mark.parametrize("name", sorted(READERS))
def test_whatever_stands_in_the_file_is_read_or_told(name: str, value: str, bare: dict[str, str], config: Path) -> None:
    config.write_text(f"{name} = {value}\n")
    try:
        chosen = load(bare)
    except UsageError as told:
        assert f"can't read {name}" in str(told)
    else:
        assert name in chosen.sources


@pytest.mark.parametrize("raw", [b"redis_url = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml_is_told_with_its_path(raw: bytes, bare: dict[str, str], config: Path) -> None:
    config.write_bytes(raw)
    with pytest.raises(UsageError, match=str(config)):
        load(bare)


def test_a_file_that_is_named_counts_instead_of_the_users(bare: dict[str, str], config: Path) -> None:
    config.write_text("lease_seconds = 60\n")
    assert load(bare, config=config.with_name("none.toml")).lease_seconds == 600.0


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("lease_seconds", ["3", "600", "1e3"], ["0", "2.9", "-1", "inf", "nan", "ten"]),
        ("hang_seconds", ["0.5", "600"], ["0", "-1", "inf", "nan", "ten"]),
        ("fence", ["0.8"], ["0", "1", "nan", "80%"]),
        ("wait_for_box", ["0", "600"], ["-1", "soon"]),
        ("system_disk_reserve_mib", ["0", "2048"], ["-1", "2GiB"]),
        ("box", ["autodl-1", "a", "A.b_c-9"], ["-a", "a b", "a/b", "a" * 64, "a\n"]),
        ("redis_url", ["redis://h/0", "rediss://h/0", "unix:///run/redis.sock"], ["http://h", "h:6379", "REDIS"]),
    ],
)
def test_limits(name: str, good: list[str], bad: list[str], bare: dict[str, str]) -> None:
    variable = f"PI0Q_{name.upper()}"
    for text in good:
        load(bare | {variable: text})
    for text in bad:
        with pytest.raises(UsageError, match=variable):
            load(bare | {variable: text})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://ada:s3cret@host:6379/0", "redis://host:6379/0"),
        ("rediss://:s3cret@host/0", "rediss://host/0"),
        ("redis://:s3/cret@host/0", "redis://host/0"),
        ("redis://:s3@cret@host/0", "redis://host/0"),
        ("redis://:s3?cret@host/0", "redis://host/0"),
        ("redis://host/0?password=s3cret", "redis://host/0"),
        ("unix://ada:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_no_password_is_ever_shown(url: str, shown: str) -> None:
    assert Settings(redis_url=url).safe_url() == shown


def test_the_queue_of_an_up_on_this_machine_is_found(bare: dict[str, str], tmp_path: Path) -> None:
    up = tmp_path / "home" / "up.json"
    up.parent.mkdir()
    up.write_text('{"redis_url": "redis://:pw@127.0.0.1:6389/0"}')
    chosen = load(bare)
    assert chosen.redis_url == "redis://:pw@127.0.0.1:6389/0"
    assert chosen.sources["redis_url"] == str(up)
    assert load(bare | {"PI0Q_REDIS_URL": "redis://given/0"}).redis_url == "redis://given/0"
    up.write_text("[]")
    assert load(bare).redis_url == Settings().redis_url


def test_a_users_own_hub_cache_is_kept(bare: dict[str, str], tmp_path: Path) -> None:
    assert load(bare | {"HF_HOME": str(tmp_path / "hub")}).hf_home == tmp_path / "hub"
    both = {"HF_HOME": str(tmp_path / "hub"), "PI0Q_HF_HOME": str(tmp_path / "mine")}
    assert load(bare | both).hf_home == tmp_path / "mine"


def test_the_file_lies_where_xdg_says_else_below_home() -> None:
    assert settings.config_path({"XDG_CONFIG_HOME": "/c"}) == Path("/c/pi0q/config.toml")
    assert settings.config_path({"HOME": "/home/ada"}) == Path("/home/ada/.config/pi0q/config.toml")


def test_home_is_autodls_data_disk_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "AUTODL_DATA", tmp_path)
    assert settings.default_home({}) == tmp_path / "pi0q"
    monkeypatch.setattr(settings, "AUTODL_DATA", tmp_path / "no")
    assert settings.default_home({}).name == "pi0q"


@pytest.mark.parametrize("address", ["http://hub.example", "https://me:pw@hub.example", "hub.example", "ftp://hub"])
def test_the_token_goes_to_no_address_that_others_can_read(bare: dict[str, str], address: str) -> None:
    with pytest.raises(UsageError, match="PI0Q_HF_ENDPOINT") as told:
        load(bare | {"PI0Q_HF_ENDPOINT": address})
    assert "pw" not in str(told.value)


def test_another_address_in_hf_endpoint_is_a_mirror_unless_it_is_said_to_be_the_hub(bare: dict[str, str]) -> None:
    chosen = load(bare | {"HF_ENDPOINT": "https://hf-mirror.com/"})
    assert (chosen.hf_endpoint, chosen.hf_mirror) == ("https://huggingface.co", "https://hf-mirror.com")
    own = {"HF_ENDPOINT": "https://hub.firm.example", "PI0Q_HF_ENDPOINT": "https://hub.firm.example"}
    assert (load(bare | own).hf_endpoint, load(bare | own).hf_mirror) == ("https://hub.firm.example", "")
    assert load(bare | {"HF_ENDPOINT": "https://hf-mirror.com", "PI0Q_HF_MIRROR": "off"}).hf_mirror == ""


def test_roads_are_known_by_name(bare: dict[str, str]) -> None:
    assert load(bare).roads == ("mirror", "turbo", "hub", "modelscope") and not load(bare).modelscope_tokenizer
    assert load(bare | {"PI0Q_ROADS": "modelscope, hub,hub"}).roads == ("modelscope", "hub")
    with pytest.raises(UsageError, match=r"can.t read roads: it must hold some of .* not direct"):
        load(bare | {"PI0Q_ROADS": "hub,direct"})


def test_another_users_home_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """/root may not be looked into by anyone else, and a Path raises then, as it does for too long a name."""
    monkeypatch.setattr(settings, "AUTODL_DATA", Path("/" + "x" * 300))
    assert settings.default_home({}).name == "pi0q"
    assert load({"XDG_CONFIG_HOME": "/nowhere"}).home.name == "pi0q"


def test_autodl_has_a_mirror_that_it_reaches(
    bare: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(bare).hf_mirror == ""
    monkeypatch.setattr(settings, "AUTODL_DATA", tmp_path)
    assert load(bare).hf_mirror == "https://hf-mirror.com"


def test_a_home_of_nobody_is_told(bare: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="PI0Q_HOME: can't read home"):
        load(bare | {"PI0Q_HOME": "~no_such_user/pi0q"})


def test_a_settings_file_that_may_not_be_read_is_told(bare: dict[str, str]) -> None:
    """As a directory may not be looked into; too long a name is refused to root as well."""
    with pytest.raises(UsageError, match="Invalid pi0q settings"):
        load(bare, config=Path("/" + "x" * 300))
