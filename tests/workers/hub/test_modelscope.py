"""What of a repository may come from ModelScope, by its list and by what the Hub or pi0q say of it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pi0q.workers.hub import modelscope
from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.errors import WrongBytes
from pi0q.workers.hub.modelscope import Given
from pi0q.workers.hub.requirements import PALIGEMMA, TOKENIZER_FILES, Fetch

OLD, NEW = "a" * 40, "b" * 40
WEIGHTS = "c" * 64
BASE = Fetch(kind="base", repo_id="you/base", repo_type="model")
DATASET = Fetch(kind="dataset", repo_id="you/grab_box", repo_type="dataset")


def listed(path: str = "model.safetensors", **more: Any) -> dict[str, Any]:
    usual = {"Path": path, "Type": "blob", "Size": 7, "Sha256": WEIGHTS, "Revision": OLD, "CommittedDate": 5}
    return usual | more


def test_a_list_is_read_without_its_directories() -> None:
    found = modelscope.entries([listed("meta", Type="tree", Size=0), listed(Sha256=None), listed("config.json")])
    assert list(found) == ["model.safetensors", "config.json"]
    assert (found["model.safetensors"].sha256, found["config.json"].sha256) == ("", WEIGHTS)


@pytest.mark.parametrize("wrong", [{"Size": "7"}, {"Size": -1}, {"Size": True}, {"Path": None}])
def test_a_list_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongBytes, match="can't be read"):
        modelscope.entries([listed(**wrong)])


def test_what_differs_from_the_hub_is_told_before_it_is_read() -> None:
    """A small file is named by git's SHA-1 on the Hub: it is compared once it is here."""
    names = {"model.safetensors": WEIGHTS, "other.safetensors": "d" * 64, "config.json": "e" * 40, "gone": WEIGHTS}
    given = Given(sha=OLD, ref="main", files={path: Blob(name=name, size=7) for path, name in names.items()})
    here = modelscope.entries([listed(path) for path in ("model.safetensors", "other.safetensors", "config.json")])
    assert modelscope.differing(given, here) == {"other.safetensors", "gone"}
    assert modelscope.differing(given, modelscope.entries([listed("config.json", Size=8)])) == set(names)
    assert Given.from_json(given.to_json()) == given


def test_its_own_commit_is_the_newest_that_changed_a_file() -> None:
    here = modelscope.entries([listed("a"), listed("b", Revision=NEW, CommittedDate=6), listed("c")])
    assert modelscope.own_commit(here) == NEW
    # A list without commits is named by what is in it.
    bare = [listed(path, Revision=None) for path in ("a", "b")]
    name = modelscope.own_commit(modelscope.entries(bare))
    assert len(name) == 40 and name == modelscope.own_commit(modelscope.entries(reversed(bare)))
    assert name != modelscope.own_commit(modelscope.entries(bare[:1]))


def test_without_the_hub_each_file_needs_a_hash() -> None:
    assert modelscope.own_files(BASE, modelscope.entries([listed()])) == {
        "model.safetensors": Blob(name=WEIGHTS, size=7)
    }
    with pytest.raises(WrongBytes, match="names no hashes"):
        modelscope.own_files(BASE, modelscope.entries([listed(Sha256="")]))


def test_its_main_branch_is_called_master() -> None:
    assert modelscope.names(BASE) == ["master"]
    assert modelscope.names(DATASET) == ["v3.0", "master"]
    assert modelscope.names(Fetch(kind="base", repo_id="a/b", repo_type="model", revision="v9")) == ["v9"]


def test_the_tokenizer_whose_hashes_are_shipped_is_paligemmas() -> None:
    fetch = Fetch(kind="tokenizer", repo_id=PALIGEMMA, repo_type="model", patterns=TOKENIZER_FILES)
    assert modelscope.is_tokenizer(fetch, None) and modelscope.is_tokenizer(fetch, modelscope.TOKENIZER_COMMIT)
    assert not modelscope.is_tokenizer(fetch, OLD)
    assert not modelscope.is_tokenizer(Fetch(kind="backbone", repo_id=PALIGEMMA, repo_type="model"), None)
    assert fetch.chosen(modelscope.TOKENIZER) == list(modelscope.TOKENIZER)
    added = b'{\n  "<image>": 257152\n}\n'
    assert modelscope.TOKENIZER["added_tokens.json"] == (hashlib.sha256(added).hexdigest(), len(added))
