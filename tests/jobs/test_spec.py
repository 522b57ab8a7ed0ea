"""What a job file may say, and what it is told when it says something else."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from pi0q.jobs import spec
from pi0q.jobs.errors import SpecError
from pi0q.jobs.schema.flag_types import WandbProject
from pi0q.jobs.spec import Checkpoints, Priority, Resources, Spec

MINIMAL = """\
train:
  dataset: {repo_id: me/boxes}
  policy: {type: act}
"""


def parse(text: str | bytes, filename: str = "job.yaml") -> Spec:
    return spec.parse(text, filename=filename)


def faults(text: str | bytes, filename: str = "job.yaml") -> list[tuple[int, str]]:
    with pytest.raises(SpecError) as caught:
        parse(text, filename)
    return [(fault.line, str(fault)) for fault in caught.value.faults]


def one_fault(text: str | bytes) -> tuple[int, str]:
    told = faults(text)
    assert len(told) == 1, told
    return told[0]


def with_train(extra: str) -> str:
    return MINIMAL + textwrap.indent(textwrap.dedent(extra), "  ")


# ---- what is taken


def test_the_least_a_job_can_say() -> None:
    job = parse(MINIMAL, "boxes_v2.yaml")

    assert job == Spec(
        name="boxes_v2",
        priority=Priority.NORMAL,
        resources=Resources(gpus=None, vram_mib=None, disk_mib=None),
        checkpoints=Checkpoints(every_seconds=1800.0, keep=2, copy_to=None),
        rehearsal=False,
        train={"dataset.repo_id": "me/boxes", "policy.type": "act"},
    )


def test_everything_said() -> None:
    job = parse(
        MINIMAL
        + "  steps: 50_000\n"
        + "name: Kiste greifen\npriority: urgent\nrehearsal: yes\n"
        + "resources: {gpus: 2, vram: 90GiB, disk: 100 GB}\n"
        + "checkpoints: {every: 1.5h, keep: 3, copy_to: hf://me/checkpoints}\n"
    )

    assert job.name == "Kiste greifen"
    assert job.priority is Priority.URGENT
    assert job.rehearsal
    assert job.resources == Resources(gpus=2, vram_mib=92160, disk_mib=95368)  # 100e9 bytes, rounded up
    assert job.checkpoints == Checkpoints(every_seconds=5400.0, keep=3, copy_to="hf://me/checkpoints")
    assert job.train["steps"] == 50_000


@pytest.mark.parametrize(("word", "step"), [("low", 9), ("normal", 6), ("high", 3), ("urgent", 0)])
def test_priorities_are_celerys_steps(word: str, step: int) -> None:
    assert parse(MINIMAL + f"priority: {word}\n").priority.step == step


def test_flags_keep_the_files_order_nested_or_dotted() -> None:
    job = parse("train:\n  steps: 5\n  policy.type: act\n  dataset: {repo_id: me/x}\n  policy: {n_heads: 2}\n")

    assert list(job.train) == ["steps", "policy.type", "dataset.repo_id", "policy.n_heads"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("name: first\n", "first"),
        ("", "from_train"),
    ],
)
def test_name_comes_from_name_then_job_name(written: str, expected: str) -> None:
    assert parse(with_train("job_name: from_train\n") + written, "file.yaml").name == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("policy.optimizer_lr: 1e-5", 1e-5),  # text to PyYAML
        ("policy.optimizer_lr: 0.001", 0.001),
        ("policy.dropout: 0", 0.0),
        ("steps: 5e4", 50_000),
        ("steps: 50000.0", 50_000),
        ("steps: '7'", 7),
        ("policy.use_vae: no", False),
        ("policy.use_vae: On", True),
        ("job_name: 010", "010"),  # an int to PyYAML
        ("job_name: 2026-11-22", "2026-11-22"),  # a date to PyYAML
        ("job_name: '; rm -rf / $(reboot)'", "; rm -rf / $(reboot)"),  # no shell sees it
        ("wandb.notes: -x", "-x"),
        ("policy.pretrained_backbone_weights: null", None),
        ("dataset.episodes: [0, 2]", [0, 2]),
        ("rename_map: {a.b: c}", {"a.b": "c"}),
    ],
)
def test_what_can_mean_only_one_thing_is_taken(written: str, expected: object) -> None:
    value = parse(with_train(written + "\n")).train[written.partition(":")[0]]

    assert value == expected
    assert type(value) is type(expected)


def test_an_empty_section_says_nothing() -> None:
    assert parse(MINIMAL + "resources:\ncheckpoints:\n  # keep: 3\n") == parse(MINIMAL)


def test_names_are_normalised() -> None:
    assert parse(MINIMAL + "name: Cafe\u0301 📦 משימה\n").name == "Café 📦 משימה"


def test_a_byte_order_mark_and_windows_lines_are_taken() -> None:
    assert parse(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()).train["policy.type"] == "act"


# ---- what is refused, each fault with its line and its cure


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        pytest.param(MINIMAL + "prority: high\n", 4, "did you mean priority?", id="misspelt"),
        pytest.param(MINIMAL + "steps: 5\n", 4, "belongs under `train`", id="flag outside train"),
        pytest.param(MINIMAL + "output_dir: x\n", 4, "is pi0q's to set", id="denied outside train"),
        pytest.param(MINIMAL + "priority: 3\n", 4, "low, normal, high or urgent, not `3`", id="number for a word"),
        pytest.param(MINIMAL + "priority: HIGH\n", 4, "write high", id="case"),
        pytest.param(MINIMAL + "rehearsal: 'true'\n", 4, "without quotes", id="quoted truth"),
        pytest.param(MINIMAL + "name:\n", 4, "is empty", id="empty"),
        pytest.param(MINIMAL + "name: yes\n", 4, 'YAML reads `yes` as true: write "yes"', id="truth for a name"),
        pytest.param(MINIMAL + f"name: {'x' * 101}\n", 4, "has 101 characters", id="long name"),
        pytest.param(MINIMAL + 'name: "a\\u202eb"\n', 4, "U+202E", id="direction mark"),
        pytest.param(MINIMAL + 'name: "a\\0b"\n', 4, "U+0000", id="NUL"),
        pytest.param(MINIMAL + 'name: "a\\nb"\n', 4, "U+000A", id="newline"),
        pytest.param(MINIMAL + 'name: "\\ud800"\n', 4, "U+D800", id="half a surrogate"),
        pytest.param(MINIMAL + "name: --all\n", 4, "must not start with `-`", id="option for a name"),
        pytest.param(MINIMAL + "name: [a]\n", 4, "not a list", id="list for a name"),
        pytest.param(MINIMAL + "resources: {vram: 90}\n", 4, "has no unit: write 90GiB", id="no unit"),
        pytest.param(MINIMAL + "resources: {vram: 90Gi}\n", 4, "like 90GiB", id="half a unit"),
        pytest.param(MINIMAL + "resources: {disk: 0GiB}\n", 4, "from 1MiB", id="no disk"),
        pytest.param(MINIMAL + "resources: {gpus: 17}\n", 4, "from 0 to 16", id="too many GPUs"),
        pytest.param(MINIMAL + "resources: 90GiB\n", 4, "must hold keys of its own (gpus, vram", id="no section"),
        pytest.param(MINIMAL + "checkpoints: {every: 30}\n", 4, "write 30min", id="no unit of time"),
        pytest.param(MINIMAL + "checkpoints: {every: 1:30}\n", 4, "like 90min", id="base 60"),
        pytest.param(MINIMAL + "checkpoints: {every: 0s}\n", 4, "from 1 second to 7 days", id="no time"),
        pytest.param(MINIMAL + "checkpoints: {keep: 0}\n", 4, "from 1 to", id="keep none"),
        pytest.param(MINIMAL + "checkpoints: {copy_to: ../x}\n", 4, "absolute", id="relative copy"),
        pytest.param(MINIMAL + "checkpoints: {copy_to: /a/../b}\n", 4, "`..`", id="dots in copy"),
        pytest.param(MINIMAL + "checkpoints: {copy_to: hf://me}\n", 4, "hf://owner/name", id="no repository"),
        pytest.param(with_train("steps: 0\n"), 4, "from 1 to", id="no steps"),
        pytest.param(with_train("steps: 010\n"), 4, "octal", id="octal"),
        pytest.param(with_train("steps: 1:30\n"), 4, "base 60", id="sexagesimal"),
        pytest.param(with_train("steps: 0.5\n"), 4, "whole number", id="half a step"),
        pytest.param(with_train("steps: 1_\n"), 4, "whole number", id="underscore at the end"),
        pytest.param(with_train("steps: 1__0\n"), 4, "whole number", id="two underscores"),
        pytest.param(with_train(f"steps: {'9' * 5000}\n"), 4, "whole number", id="more digits than int() takes"),
        pytest.param(with_train("policy.optimizer_lr: .nan\n"), 4, "a number from 0 to 10", id="nan"),
        pytest.param(with_train("policy.optimizer_lr: .inf\n"), 4, "a number from 0 to 10", id="inf"),
        pytest.param(with_train("policy.optimizer_lr: nan\n"), 4, "a number from 0 to 10", id="nan as text"),
        pytest.param(with_train("policy.optimizer_lr: 1e400\n"), 4, "a number from 0 to 10", id="overflow"),
        pytest.param(with_train("dataset.episodes: 3\n"), 4, "write [3]", id="no list"),
        pytest.param(with_train("dataset.episodes: [0, -1]\n"), 4, "not `-1`", id="bad item"),
        pytest.param(with_train("dataset.root: ../../etc\n"), 4, "`..`", id="path out of home"),
        pytest.param(with_train("policy.pretrained_path: pi0\n"), 4, "owner/name", id="no owner"),
        pytest.param(with_train("policy.pretrained_path: ../pi0\n"), 4, "owner/name", id="relative weights"),
        pytest.param(with_train("rename_map: [a]\n"), 4, "a mapping", id="no mapping"),
        pytest.param(with_train("wandb.notes: include /etc/passwd\n"), 4, "`include`", id="file by include"),
        pytest.param(with_train("wandb.notes: discover_packages_path\n"), 4, "import code", id="import by value"),
        pytest.param(with_train(f"wandb.notes: hf_{'a' * 30}\n"), 4, "tokens live on the box", id="token"),
        pytest.param(with_train("frobnicate: 2\n"), 4, "is not a flag that pi0q passes", id="no such flag"),
        pytest.param(with_train("policy.kl_wieght: 2\n"), 4, "did you mean train.policy.kl_weight?", id="near flag"),
        pytest.param(with_train("dtype: bfloat16\n"), 4, "did you mean train.policy.dtype?", id="wrong section"),
        pytest.param(with_train("polcy: {dropout: 0}\n"), 4, "did you mean train.policy?", id="misspelt section"),
        pytest.param(with_train("policy.dtype: bfloat16\n"), 4, "is not a setting of act", id="other policy's"),
        pytest.param(with_train("policy.type: pi0\n"), 4, "is given twice, first on line 3", id="twice, dotted"),
        pytest.param(MINIMAL + "train: {steps: 1}\n", 4, "is given twice, first on line 1", id="twice"),
        pytest.param(MINIMAL + "<<: {name: x}\n", 4, "merge", id="merge"),
        pytest.param(MINIMAL + "? [a, b]\n: 1\n", 4, "a key must be a word", id="list as a key"),
        pytest.param("name: x\n", 1, "train is missing", id="no train"),
        pytest.param("train:\n  policy: {type: act}\n", 1, "train.dataset.repo_id is missing", id="no dataset"),
        pytest.param("train:\n  dataset: {repo_id: a/b}\n", 1, "train.policy.type is missing", id="no policy"),
    ],
)
def test_fault(text: str, line: int, told: str) -> None:
    at, words = one_fault(text)

    assert told in words
    assert at == line


def test_a_reward_model_takes_the_place_of_a_policy() -> None:
    job = parse("train:\n  dataset: {repo_id: me/x}\n  reward_model: {type: sarm, num_layers: 2}\n")

    assert job.train["reward_model.type"] == "sarm"


def test_a_dataset_by_root_needs_no_owner() -> None:
    job = parse("train:\n  dataset: {repo_id: left_arm, root: /data/left_arm}\n  policy: {type: act}\n")

    assert job.train["dataset.repo_id"] == "left_arm"


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("reward_model.type: sarm", "a job trains one of the two"),
        ("dataset.image_transforms.tfs: {blur: {weight: 1}}", "has blur without a type"),
        ("dataset.image_transforms.tfs.affine.wieght: 1", "must be a mapping with weight, type, kwargs"),
        ("sample_weighting.progress_path: /etc/passwd", "hf://datasets/owner/name/progress.parquet"),
        ("policy.tags: [a, [b]]", "must be text, not a list"),
        ("policy.input_features: {observation.state: {type: STATE}}", "shape is missing"),
        ("policy.input_features: {observation.state: {type: STAT, shape: [2]}}", "must be STATE"),
    ],
)
def test_new_kinds_of_values_say_what_is_wrong(flag: str, told: str) -> None:
    assert told in one_fault(with_train(flag + "\n"))[1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("policy: {type: gaussian_actor}", "reinforcement learning"),
        ("reward_model: {type: robometer}", "used as it comes"),
        ("policy: {type: robometer}", "used as it comes"),
        ("policy: {type: topreward}", "used as it comes"),
        ("reward_model: {type: gaussian_actor}", "reinforcement learning"),
        ("policy: {type: sarm}", "write reward_model.type: sarm"),
        ("policy: {type: reward_classifier}", "write reward_model.type: reward_classifier"),
        ("reward_model: {type: pi0}", "write policy.type: pi0"),
        ("policy: {type: groot, base_model_path: mallory/groot}", "nvidia/name"),
        ("policy: {type: groot, tokenizer_assets_repo: a/b}", "runs code"),
        ("policy: {type: wall_x, action_tokenizer_path: a/b}", "runs code"),
        ("reward_model: {type: reward_classifier, model_name: a/b}", "runs code"),
        ("policy: {type: groot, embodiment_tag: ../../x}", "path or a repository"),
        ("policy: {type: eo1, vlm_config: {_name_or_path: mallory/x}}", "path or a repository"),
    ],
)
def test_what_a_model_may_not_be_given(text: str, told: str) -> None:
    assert told in one_fault(f"train:\n  dataset: {{repo_id: me/x}}\n  {text}\n")[1]


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("output_dir: ../../etc", "each run has its own directory"),
        ("resume: true", "newest checkpoint that verifies"),
        ("config_path: /tmp/x.json", "when it resumes"),
        ("wandb.run_id: abc", "one run for the job's whole life"),
        ("save_checkpoint_to_hub: true", "checkpoints.copy_to"),
        ("save_checkpoint: false", "always true"),
        ("job.target: a10g-large", "paid Hugging Face job"),
        ("job: {target: a10g-large}", "paid Hugging Face job"),
        ("env: {type: aloha, discover_packages_path: evil}", "simulator"),
        ("env.discover_packages_path: evil", "import any package"),
        ("policy.discover_packages_path: evil", "import any package"),
        ("eval_freq: 0", "sets it to 0 itself"),
        ("env_eval_freq: 0", "sets it to 0 itself"),
        ("eval: {n_episodes: 3}", "simulator"),
        ("policy.action_tokenizer_name: evil/tokenizer", "runs code"),
    ],
)
def test_denied_on_purpose_says_why(flag: str, told: str) -> None:
    assert told in one_fault(with_train(flag + "\n"))[1]


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        pytest.param("name: &x a\n" + MINIMAL, 1, "anchor (&x)", id="anchor"),
        pytest.param("name: !!python/object:os.system a\n" + MINIMAL, 1, "tag", id="tag"),
        pytest.param("name: !include /etc/passwd\n" + MINIMAL, 1, "tag (!include)", id="include tag"),
        pytest.param(MINIMAL + "---\nname: x\n", 4, "second document", id="documents"),
        pytest.param("a: [[[[[[[[[[[[1]]]]]]]]]]]]\n", 1, "deeper than 10", id="deep"),
        pytest.param("[" * 30_000, 1, "deeper than 10", id="very deep"),
        pytest.param("a: [" + "1," * 600 + "]\n", 1, "more than 500", id="many values"),
        pytest.param("#" * 70_000, 1, "over 64 KiB", id="large"),
        pytest.param("", 1, "is empty", id="empty"),
        pytest.param("# nothing\n", 1, "is empty", id="comments only"),
        pytest.param("- a\n", 1, "must be a mapping", id="list"),
        pytest.param("train:\n\tsteps: 1\n", 2, "tab", id="tab"),
        pytest.param("train: {steps: 1\nname: x\n", 2, "bracket", id="open bracket"),
        pytest.param("a: b: c\n", 1, "indentation", id="colon"),
        pytest.param("name: a\x07\n" + MINIMAL, 1, "U+0007", id="control character"),
        pytest.param(b"name: ok\nx: \xff\xfe\n", 2, "UTF-8", id="not UTF-8"),
        pytest.param(MINIMAL.encode("utf-16"), 1, "UTF-8", id="UTF-16"),
    ],
)
def test_structure(text: str | bytes, line: int, told: str) -> None:
    at, words = one_fault(text)

    assert told in words
    assert at == line


def test_an_alias_bomb_is_told_at_once_not_unfolded() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x]\n"
    for last, this in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{this}: &{this} [{', '.join([f'*{last}'] * 8)}]\n"

    told = faults(bomb)

    assert len(told) == 8 + 7 * 8  # every anchor and every alias, once
    assert all("write" in words for _, words in told)


def test_every_fault_is_told_at_once_in_the_order_of_lines() -> None:
    told = faults("prority: 1\ntrain:\n  steps: -1\n  output_dir: x\n  policy: {type: pi7}\nname: ''\n")

    assert [line for line, _ in told] == [1, 2, 3, 4, 5, 6]


def test_the_message_names_file_and_lines() -> None:
    with pytest.raises(SpecError) as caught:
        parse(MINIMAL + "x: 1\n", "my.yaml")

    assert str(caught.value).startswith("1 error in my.yaml; nothing was queued.\n  my.yaml:4: x is not a key")


# ---- what must agree


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("policy.push_to_hub: true", "train.policy.repo_id doesn't say where to"),
        ("policy.path: me/act", "leave train.policy.type out"),
        ("eval_steps: 100", "dataset.eval_split"),
        ("optimizer: {type: adamw}", "use_policy_training_preset is false"),
        ("use_policy_training_preset: false", "optimizer.type and scheduler.type are needed"),
        ("peft: {r: 8}", "train.policy.pretrained_path"),
        ("policy.chunk_size: 8\npolicy.n_action_steps: 9", "more than the 8"),
    ],
)
def test_flags_that_contradict_each_other(extra: str, told: str) -> None:
    assert told in one_fault(with_train(extra + "\n"))[1]


@pytest.mark.parametrize(
    ("device", "resources", "told"),
    [
        ("cpu", "gpus: 1", "is 1 but train.policy.device is cpu"),
        ("cuda", "gpus: 0", "is 0 but train.policy.device is cuda"),
        ("cpu", "vram: 4GiB", "leave it out"),
    ],
)
def test_device_and_resources_agree(device: str, resources: str, told: str) -> None:
    text = with_train(f"policy.device: {device}\n") + f"resources: {{{resources}}}\n"

    assert told in one_fault(text)[1]


def test_a_policy_by_path_brings_its_own_type() -> None:
    text = "train: {dataset: {repo_id: a/b}, policy: {path: lerobot/smolvla_base, dtype: bfloat16}}\n"

    assert parse(text).train["policy.path"] == "lerobot/smolvla_base"
    assert "can't be shrunk" in one_fault(text + "rehearsal: true\n")[1]


def test_a_file_name_that_is_no_name_asks_for_one() -> None:
    assert "write `name: …`" in faults(MINIMAL, "x" * 120 + ".yaml")[0][1]
    assert parse(MINIMAL + "name: x\n", "y" * 120 + ".yaml").name == "x"


# ---- the record


def test_a_record_is_plain_and_comes_back_the_same() -> None:
    job = parse(
        with_train("policy.optimizer_lr: 1e-5\n")
        + "resources: {vram: 1.5GB}\ncheckpoints: {every: 90.5s, copy_to: /root/autodl-fs/x}\n"
    )

    assert Spec.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_no_time_between_saves_survives_the_record() -> None:
    job = parse(MINIMAL + "checkpoints: {every: null}\n")

    assert job.checkpoints.every_seconds is None
    assert Spec.from_json(job.to_json()).checkpoints.every_seconds is None


@pytest.mark.parametrize(
    ("flag", "value"),
    [("output_dir", "/etc"), ("env.discover_packages_path", "evil"), ("steps", -1), ("seed", float("nan"))],
)
def test_an_altered_record_is_refused_by_the_same_rules(flag: str, value: object) -> None:
    data = parse(MINIMAL).to_json()
    data["train"] = {"dataset.repo_id": "me/boxes", "policy.type": "act", flag: value}

    with pytest.raises(SpecError, match=flag):
        Spec.from_json(data)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_a_record_that_is_no_job_is_refused(data: object) -> None:
    with pytest.raises(SpecError, match="is not a job"):
        Spec.from_json(data)


def test_importing_costs_little() -> None:
    script = "import sys, pi0q.jobs.spec; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert "pi0q.jobs.schema.nodes" in loaded
    assert not {"yaml", "humanfriendly", "pydantic", "jsonschema", "difflib", "redis", "celery", "socket"} & set(loaded)


@pytest.mark.parametrize(
    "line",
    ["dataset.root: None", "dataset.revision: None", "wandb.entity: None", "wandb.notes: None", "steps: None",
     "wandb.mode: None", "policy.repo_id: None", 'job_name: "None"', "dataset.episodes: None", "rename_map: {a: None}"],
)  # fmt: skip
def test_pythons_none_is_refused_for_every_key(line: str) -> None:
    assert "Python's word for nothing: leave the key out" in one_fault(with_train(line))[1]


@pytest.mark.parametrize("sign", ["/", "\\", "#", "?", "%", ":"])
def test_a_wandb_project_holds_no_sign_that_wandb_refuses(sign: str) -> None:
    line, text = one_fault(with_train(f"steps: 5\nwandb.project: 'grab{sign}box'"))
    assert (line, text.startswith(f"train.wandb.project must not hold `{sign}`")) == (5, True)


def test_wandb_refuses_these_signs_and_no_other() -> None:
    """The rule is WandB's own: its settings are asked."""
    wandb = pytest.importorskip("wandb")
    for char in map(chr, range(33, 127)):
        taken = WandbProject().fault(f"grab{char}box") is None
        try:
            wandb.Settings(project=f"grab{char}box")
        except wandb.errors.UsageError:
            assert not taken
        else:
            assert taken, char


def test_lerobots_own_config_is_told_from_a_job_file() -> None:
    config = '{"dataset": {"repo_id": "a/b"}, "policy": {"type": "act"}, "output_dir": "x", "resume": false}'
    ((line, text),) = faults(config, "train_config.json")
    assert (line, "pi0q import train_config.json" in text) == (1, True)
