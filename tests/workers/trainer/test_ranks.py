"""Which rank's end tells why the run ends."""

from __future__ import annotations

import pytest

from pi0q.workers.trainer.ranks import PEER_GONE, Meeting, RankEnd, decisive


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ([(0, 0), (1, 0)], 0),
        ([(1, -9), (0, PEER_GONE)], 1),
        ([(0, PEER_GONE), (1, -9)], 1),
        ([(1, 75), (2, 75), (0, 75)], 0),
        ([(1, 0), (0, 1)], 0),
        ([(2, 1), (1, 1), (0, -9)], 2),
        ([(0, 76), (1, -9)], 0),
        ([(1, PEER_GONE), (0, PEER_GONE)], 1),
    ],
)
def test_the_first_end_that_is_no_consequence_counts(ends: list[tuple[int, int]], why: int) -> None:
    told = [RankEnd(rank=rank, code=code, at=float(at)) for at, (rank, code) in enumerate(ends)]
    assert decisive(told).rank == why


def test_each_rank_gets_its_place_and_the_machines_nccl_but_only_rank_0_the_key_of_wandb() -> None:
    base = {"NCCL_NVLS_ENABLE": "0", "WANDB_API_KEY": "x", "GLOO_SOCKET_IFNAME": "eth1"}
    with Meeting(3) as meeting:
        envs = [meeting.env(base, rank) for rank in range(3)]
        handles = [meeting.handles(rank) for rank in range(3)]
    assert [(env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) for env in envs] == [
        ("0", "0", "3"), ("1", "1", "3"), ("2", "2", "3"),
    ]  # fmt: skip
    assert {env["NCCL_NVLS_ENABLE"] for env in envs} == {"0"} and {env["GLOO_SOCKET_IFNAME"] for env in envs} == {
        "eth1"
    }
    assert [("WANDB_API_KEY" in env, "PI0Q_STORE" in env) for env in envs] == [
        (True, True),
        (False, False),
        (False, False),
    ]
    assert len({env["MASTER_PORT"] for env in envs}) == 1
    assert len(handles[0]) == 3 and len(handles[1]) == len(handles[2]) == 1
    assert not set(handles[1]) & set(handles[2]) | set(handles[0]) & set(handles[1])
