"""The stand-in tokenizer. The stand-in dataset is trained on in workers/run/test_trainer_real.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi0q.ops.local import standins_main

CACHE = "hub/models--google--paligemma-3b-pt-224"


def test_a_tokenizer_in_the_cache_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers", reason="the tokenizers library is not installed in this interpreter")
    assert standins_main.main(["tokenizer", str(tmp_path)]) == 0
    assert "(stand-in)" in capsys.readouterr().out
    commit = (tmp_path / CACHE / "refs/main").read_text()
    snapshot = tmp_path / CACHE / "snapshots" / commit
    assert standins_main.is_standin(snapshot)
    config = json.loads((snapshot / "tokenizer_config.json").read_text())
    vocabulary = json.loads((snapshot / "tokenizer.json").read_text())["model"]["vocab"]
    assert config["pad_token"] in vocabulary
    assert "not google/paligemma-3b-pt-224" in (snapshot / "STAND-IN.txt").read_text()


def test_a_cached_tokenizer_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = tmp_path / CACHE / "snapshots/35e4f46485b4d07967e7e9935bc3786aad50687c"
    (tmp_path / CACHE / "refs").mkdir(parents=True)
    (tmp_path / CACHE / "refs/main").write_text(real.name)
    assert standins_main.main(["tokenizer", str(tmp_path)]) == 0
    assert "left alone" in capsys.readouterr().out
    assert standins_main.make_tokenizer(tmp_path) == real
    assert not standins_main.is_standin(real)
    assert sorted(path.name for path in (tmp_path / CACHE).iterdir()) == ["refs"]
