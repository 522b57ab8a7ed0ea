"""What leaves a report: secrets by their form, names by what is known and by where they stand."""

from __future__ import annotations

import pytest

from pi0q.jobs.failures.redaction import Redactor


@pytest.mark.parametrize(
    "text",
    [
        "hf_s3cretS3cretS3cretS3cret",
        "wandb_v1_s3cretS3cret",
        "key = 0123456789abcdef0123456789abcdef01234567 s3cret".replace("s3cret", ""),
        "ghp_s3cretS3cretS3cretS3cret",
        "sk-proj-s3cretS3cretS3cret",
        "AKIAS3CRETS3CRETS3CR",
        "redis://:s3cret@127.0.0.1:6379/0",
        "https://ada:s3cret@example.org/x",
        "Authorization: Bearer s3cretS3cret.s3cret",
        "{'password': 's3cretS3cret'}",
        'api_key="s3cretS3cret"',
        "https://x.aws/y?X-Amz-Signature=s3cretS3cret&a=1",
        "export WANDB_API_KEY=s3cretS3cret",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.s3cretS3cret",
        "-----BEGIN RSA PRIVATE KEY-----s3cret\nS3cret-----END RSA PRIVATE KEY-----",
    ],
)
def test_secrets_go_by_their_form(text: str) -> None:
    redactor = Redactor()
    said = redactor.text(f"before {text} after")
    assert "s3cret" not in said.lower() and "0123456789abcdef01" not in said
    assert said.startswith("before ") and redactor.replaced["secret"] >= 1


def test_names_go_wherever_they_stand_and_keep_one_stand_in() -> None:
    redactor = Redactor()
    redactor.name("ada", "user")
    redactor.repository("puheliang/grab_box")
    redactor.name("gpu-7", "box")
    text = "ada wrote /api/datasets/puheliang/grab_box; PUHELIANG ran on gpu-7 (adaptation stays, gpu-77 too)"
    assert redactor.text(text) == (
        "<user-1> wrote /api/datasets/<owner-1>/grab_box; <owner-1> ran on <box-1> (adaptation stays, gpu-77 too)"
    )
    assert dict(redactor.replaced) == {"secret": 0, "address": 0, "ip": 0, "user": 1, "owner": 2, "box": 1}


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("open('/home/grace/data/x.parquet')", "grace"),
        ("C:\\Users\\grace\\x", "grace"),
        ("/data/hf/hub/datasets--grace--boxes/snapshots", "grace"),
        ("https://huggingface.co/datasets/grace/boxes/resolve/main/x", "grace"),
        ("https://hf-mirror.com/grace/boxes", "grace"),
        ("https://wandb.ai/grace/project/runs/1", "grace"),
        ("mail grace.hopper@navy.mil now", "grace.hopper"),
        ("connect to 10.20.30.40:6379", "10.20.30.40"),
    ],
)
def test_names_are_found_by_what_is_around_them(text: str, gone: str) -> None:
    redactor = Redactor()
    redactor.learn([text])
    assert gone not in redactor.text(text)
    if gone == "grace":
        assert "grace" not in redactor.text("and later: grace said")


def test_what_says_what_was_trained_stays() -> None:
    redactor = Redactor()
    text = "https://huggingface.co/lerobot/pi0 google/paligemma 127.0.0.1 /root/autodl-tmp train.root"
    redactor.learn([text])
    for name in ("root", "lerobot", "google"):
        redactor.name(name, "owner")
    assert redactor.text(text) == text


def test_paths_get_their_stand_in_the_longest_first() -> None:
    redactor = Redactor()
    redactor.path("/data/pi0q", "$PI0Q_HOME")
    redactor.path("/data/pi0q/runs/a1", "$RUN")
    redactor.path("/", "$ROOT")
    assert redactor.text("/data/pi0q/runs/a1/log /data/pi0q/x /usr") == "$RUN/log $PI0Q_HOME/x /usr"


def test_values_of_json_are_redacted_with_their_keys() -> None:
    redactor = Redactor()
    redactor.name("grace", "user")
    assert redactor.value({"grace": ["x grace", 3, None, {"a": "grace"}]}) == {
        "<user-1>": ["x <user-1>", 3, None, {"a": "<user-1>"}]
    }


def test_users_and_hosts_of_a_prompt_go_wherever_they_stand() -> None:
    redactor = Redactor()
    text = "(base) root@autodl-container-9f:~# x; submitted by grace@laptop; lerobot/pi0@main; grace on laptop"
    redactor.learn([text])
    assert redactor.text(text) == (
        "(base) root@<host-1>:~# x; submitted by <user-1>@<host-2>; lerobot/pi0@main; <user-1> on <host-2>"
    )
