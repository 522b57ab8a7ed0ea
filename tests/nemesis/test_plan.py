"""A plan is a function of its seed; over many seeds everything is drawn."""

from __future__ import annotations

from tests.nemesis.plan import ALONE, BOXES, CARDS, KINDS, LONG, SHORT, draw

MANY = [draw(seed) for seed in range(1000)]


def test_a_seed_is_a_round() -> None:
    assert draw(7) == draw(7) != draw(8)
    assert draw(7).story() == draw(7).story()


def test_all_that_can_happen_does() -> None:
    kinds = {fault.kind for each in MANY for fault in each.faults}
    assert kinds == set(KINDS)
    assert {fault.moment for each in MANY for fault in each.faults} == {"", "claimed", "stepping", "saving", "resumed"}
    assert {job.fails for each in MANY for job in each.jobs} == {"", "oom", "nan", "error"}
    assert {fault.box for each in MANY for fault in each.faults} == {"", *BOXES}


def test_every_job_fits_somewhere_and_every_length_is_clearly_short_or_long() -> None:
    for each in MANY:
        assert all(job.gib < max(CARDS.values()) for job in each.jobs)
        for fault in each.faults:
            assert fault.told()
            lasts = KINDS[fault.kind][1]
            assert (fault.seconds > 0) == lasts
            assert not lasts or any(low <= fault.seconds <= high for low, high in (SHORT, LONG, ALONE))
            assert fault.job < len(each.jobs)


def test_nothing_is_submitted_after_a_copy_that_will_be_restored() -> None:
    for each in MANY:
        if any(fault.kind == "restore_server" for fault in each.faults):
            assert all(job.at == 0 for job in each.jobs)


def test_without_a_way_to_shift_clocks_such_a_box_just_crashes() -> None:
    plain = [draw(seed, clocks=False) for seed in range(200)]
    assert not any(fault.kind == "clock" for each in plain for fault in each.faults)
    assert [len(each.faults) for each in plain] == [len(draw(seed).faults) for seed in range(200)]
