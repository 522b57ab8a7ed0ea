"""The environment maker on awkward machines: intercepted TLS, no uv, no network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pi0q.ops.dev import make_venv_main as maker

PIP_WORKS = 'print("pip", *sys.argv[1:])'
PIP_FAILS = 'print("ERROR: no route to the index"); sys.exit(1)'


def program(path: Path, body: str) -> Path:
    """Write an executable Python script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose `python -m pip` writes its arguments down, and a PATH with nothing but uv's place."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DONE", str(tmp_path / "done"))
    return program(tmp_path / "venv" / "bin" / "python", 'open(os.environ["DONE"], "a").write("pip\\n")')


def done(tmp_path: Path) -> list[str]:
    file = tmp_path / "done"
    return file.read_text().splitlines() if file.exists() else []


def test_install_uses_uv_and_compiles_byte_code(python: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "uv", 'open(os.environ["DONE"], "a").write(" ".join(sys.argv[1:]) + "\\n")')
    maker.install(python, ["x"])
    assert done(tmp_path) == [f"pip install --compile-bytecode --python {python} --quiet x"]


def test_install_takes_the_systems_certificates_when_uv_does_not_know_the_issuer(python: Path, tmp_path: Path) -> None:
    body = 'if "UV_SYSTEM_CERTS" not in os.environ: print("UnknownIssuer"); sys.exit(2)\n'
    program(tmp_path / "bin" / "uv", body + 'open(os.environ["DONE"], "a").write("uv with system certificates\\n")')
    maker.install(python, ["x"])
    assert done(tmp_path) == ["uv with system certificates"]


def test_install_falls_back_to_pip(python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(tmp_path / "bin" / "uv", 'print("UnknownIssuer"); sys.exit(2)')
    maker.install(python, ["x"])
    assert done(tmp_path) == ["pip"]
    assert "Traceback" not in capsys.readouterr().out


def test_failed_install_prints_the_installers_last_lines_and_a_fix(python: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "uv", 'print("UnknownIssuer"); sys.exit(2)')
    program(python, PIP_FAILS)
    with pytest.raises(SystemExit) as failed:
        maker.install(python, ["x"])
    text = str(failed.value)
    assert "ERROR: no route to the index" in text and "Fix: " in text and "Traceback" not in text


def test_failed_venv_names_the_missing_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = program(tmp_path / "broken", 'print("ensurepip is not available"); sys.exit(1)')
    monkeypatch.setattr(maker, "choose", lambda: str(broken))
    with pytest.raises(SystemExit, match=r"(?s)ensurepip is not available.*Fix: .*python3-venv"):
        maker.make(tmp_path / "new")


def interpreters(monkeypatch: pytest.MonkeyPatch, versions: dict[str, tuple[int, int]]) -> None:
    """Replace the interpreters of this machine."""
    monkeypatch.setattr(maker, "candidates", lambda: list(versions))
    monkeypatch.setattr(maker, "version", versions.get)


def test_choose_prefers_3_12_and_asks_nobody_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    interpreters(monkeypatch, {"/a": (3, 11), "/b": (3, 13), "/c": (3, 12), "/d": (3, 14)})
    assert maker.choose() == "/c"


def test_choose_lets_uv_fetch_3_12(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "uv", 'open(os.environ["DONE"], "a").write(" ".join(sys.argv[1:]) + "\\n")')
    monkeypatch.setattr(maker, "candidates", lambda: ["/a", *done(tmp_path)])
    monkeypatch.setattr(maker, "version", {"/a": (3, 11), "python install 3.12": (3, 12)}.get)
    assert maker.choose() == "python install 3.12"


def test_choose_takes_an_older_python_and_says_what_pi0_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    interpreters(monkeypatch, {"/a": (3, 10), "/b": (3, 11)})
    assert maker.choose() == "/b"
    said = capsys.readouterr().out
    assert "/b with LeRobot 0.4.4, which has no pi0" in said and "uv python install 3.12" in said


def test_choose_without_any_python_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    interpreters(monkeypatch, {"/a": (3, 9)})
    with pytest.raises(SystemExit, match=r"3\.10 or newer.*Fix: "):
        maker.choose()


def test_script_needs_nothing_but_the_standard_library() -> None:
    lines = Path(maker.__file__).read_text().splitlines()
    names = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names) | {"__future__"}
