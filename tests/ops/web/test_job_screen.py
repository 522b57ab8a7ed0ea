from __future__ import annotations

import pytest

from pi0q.ops.web.job_screen import safe_url


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript://x/%0aalert(1)",
        "data:text/html,x",
        "//evil.example/x",
        "https://user:secret@wandb.ai/x",
        "https:///x",
        'https://wandb.ai/"onclick=',
        "https://wandb.ai/<script>",
        "https://[::1",
        "https://wandb.ai/\x00",
        "https://wandb.ai/" + "x" * 3000,
        None,
        7,
    ],
)
def test_only_plain_web_addresses_become_links(url: object) -> None:
    assert safe_url(url) == ""


def test_the_address_of_a_run_becomes_a_link() -> None:
    assert safe_url("https://wandb.ai/lab/lerobot/runs/pi0q-1") == "https://wandb.ai/lab/lerobot/runs/pi0q-1"
