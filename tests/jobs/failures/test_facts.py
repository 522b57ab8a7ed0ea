"""Evidence as values of JSON: what is dumped comes back, and what is not evidence does no harm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.jobs.failures import facts
from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.diagnosis import judge
from tests.jobs.failures.test_corpus import LOGS, Log


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_facts_alone_give_the_class_and_the_words_again(log: Log) -> None:
    """What a record keeps of a failure, with the end of its log, is judged as the box judged it."""
    evidence = log.evidence()
    stored = json.loads(json.dumps(facts.dump(evidence)))
    again = facts.load(stored, train=evidence.train, log=log.lines)
    assert diagnose(again) is diagnose(evidence)
    assert judge(again).fix == judge(evidence).fix
    assert len(json.dumps(stored)) < 16_000


@pytest.mark.parametrize(
    "told",
    [
        {}, {"exit": "1"}, {"exit": 10**40}, {"exit": True}, {"error": "KeyError"}, {"error": {"type": 3}},
        {"causes": {"a": 1}}, {"causes": [1, None, {"type": "X"}]}, {"memory": []}, {"memory": {"oom_kills": "many"}},
        {"gpus": [{"xids": ["79", 79]}, 5]}, {"gpus": "x"}, {"heard": ["hung"]}, {"step": float("1e300")},
    ],
)  # fmt: skip
def test_values_of_the_wrong_type_count_as_unknown(told: dict[str, Any]) -> None:
    evidence = facts.load(told, train={}, log=[])
    assert judge(evidence).detail and isinstance(evidence.exit_code, int)
