"""Which tests `make test` runs and which only `make test-all` runs.

`make test` is the quick tier: all tests without the mark `slow`, in 6 minutes on two cores. `make test-all` is
every test. The tests below SLOW, and those marked `real`, get the mark `slow` when they are collected, except those
that FAULTS and QUICK name: each row of the table of faults keeps a test in the quick tier.

A name is a directory, a file, a test, or one case of a test.
"""

from __future__ import annotations

_STORIES = "tests/scenarios/faults"
_ONE_BOX = "tests/scenarios/end_to_end"
_FETCH = "tests/workers/hub/test_fetch.py"
_MODELSCOPE = "tests/workers/hub/test_fetch_modelscope.py"
_ROUTES = "tests/workers/hub/test_fetch_routes.py"

#: Row of the table of faults -> what happens to a queue or a box, and the tests of it in the quick tier.
FAULTS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "Celery worker kill -9",
        (f"{_STORIES}/test_processes.py::test_row_01_a_killed_worker_costs_the_run_nothing_and_the_next_one_finds_it",),
    ),
    2: (
        "trainer kill -9",
        (
            f"{_STORIES}/test_processes.py"
            "::test_row_02_a_killed_trainer_goes_on_from_its_checkpoint_and_costs_an_attempt",
        ),
    ),
    3: (
        "runner and trainer killed, worker alive",
        (f"{_STORIES}/test_processes.py::test_row_03_runner_and_trainer_killed_and_the_worker_goes_on_at_once",),
    ),
    4: (
        "container restart: everything on the box dies, no grace",
        (
            f"{_STORIES}/test_container.py"
            "::test_row_04_a_restarted_container_takes_its_own_job_back_before_an_urgent_one",
        ),
    ),
    5: (
        "box gone for good",
        (f"{_STORIES}/test_copies.py::test_row_05_another_box_goes_on_from_the_copy_in_a_directory",),
    ),
    6: ("Redis kill -9 + AOF everysec", (f"{_STORIES}/test_server.py::test_row_06_during_a_run_nothing_is_lost",)),
    7: (
        "Redis data loss / old RDB",
        (f"{_STORIES}/test_server.py::test_row_07_a_server_with_old_data_is_corrected_by_its_box",),
    ),
    8: (
        "Redis OOM noeviction",
        (f"{_STORIES}/test_server.py::test_row_08_a_full_server_ends_no_run_and_no_box_and_says_so_to_who_submits",),
    ),
    9: (
        "Redis failover (replica promoted)",
        (f"{_STORIES}/test_server.py::test_row_09_claims_on_a_promoted_replica_wait_until_each_box_has_spoken",),
    ),
    10: (
        "partition box<->Redis shorter than the fence",
        (f"{_STORIES}/test_link.py::test_row_10_a_line_that_fails_for_less_than_the_fence",),
    ),
    11: (
        "partition longer than the lease",
        (f"{_STORIES}/test_link.py::test_row_11_beyond_the_lease_the_run_has_stopped_before_its_successor_starts",),
    ),
    12: (
        "half-open TCP",
        (f"{_STORIES}/test_link.py::test_row_12_a_half_open_line_is_noticed_and_left_for_a_new_one",),
    ),
    13: (
        "SIGSTOP of the whole box > lease, then SIGCONT",
        (f"{_STORIES}/test_container.py::test_row_13_a_box_that_stood_still_beyond_its_lease_lands_nothing",),
    ),
    14: ("clock +-2 h on one box", (f"{_STORIES}/test_container.py::test_row_14_a_wrong_clock_changes_nothing",)),
    15: (
        "message delivered twice",
        (
            f"{_STORIES}/test_messages.py::test_row_15_a_job_that_waits_twice_is_claimed_once",
            f"{_STORIES}/test_messages.py::test_row_15_a_start_that_comes_twice_starts_nothing",
        ),
    ),
    16: (
        "message lost",
        (f"{_STORIES}/test_messages.py::test_row_16_a_job_whose_message_was_deleted_is_claimed_all_the_same",),
    ),
    17: (
        "poison job",
        (f"{_STORIES}/test_trainer.py::test_row_17_a_poison_job_ends_after_three_attempts_and_others_flow",),
    ),
    18: (
        "disk full at checkpoint",
        (f"{_STORIES}/test_disk.py::test_row_18_a_disk_without_room_for_a_save_keeps_the_last_good_one",),
    ),
    19: (
        "torn checkpoint",
        (
            f"{_STORIES}/test_checkpoints.py"
            "::test_row_19_a_torn_checkpoint_falls_back_to_the_one_before_it[truncated_without_last]",
        ),
    ),
    20: (
        "silent corruption",
        (f"{_STORIES}/test_checkpoints.py::test_row_20_bytes_that_changed_in_silence_are_seen[bit_flipped]",),
    ),
    21: (
        "HF 401 / 403 gated",
        (
            f"{_FETCH}::test_a_gated_repository_is_refused_with_the_page_to_open",
            f"{_FETCH}::test_a_token_without_the_right_is_told_from_a_missing_repository",
        ),
    ),
    22: (
        "HF 429 / 5xx",
        (
            f"{_ROUTES}::test_the_hubs_retry_after_is_handed_on_when_it_is_long",
            f"{_ROUTES}::test_a_hub_that_is_ill_for_a_moment_is_asked_again",
        ),
    ),
    23: (
        "reset mid-file; stall at 0 B",
        (
            f"{_FETCH}::test_a_download_that_is_cut_goes_on_where_it_was",
            f"{_ROUTES}::test_a_stall_is_broken_and_the_rest_comes_another_way",
        ),
    ),
    24: (
        "wrong bytes from mirror",
        (f"{_ROUTES}::test_wrong_bytes_of_the_mirror_are_purged_and_fetched_from_the_hub[/cdn/]",),
    ),
    25: ("HF revision moved mid-queue", (f"{_FETCH}::test_pins_win_over_what_the_hub_has_now",)),
    26: (
        "two workers fetch the same repo on one box",
        (f"{_FETCH}::test_two_runs_that_want_the_same_download_it_once",),
    ),
    27: ("wandb down / key bad", (f"{_STORIES}/test_aftercare.py::test_row_27_a_key_that_wandb_refuses_is_a_warning",)),
    28: (
        "wandb run deleted, then resume",
        (f"{_STORIES}/test_aftercare.py::test_row_28_a_run_that_was_deleted_meanwhile_goes_on_as_another",),
    ),
    29: (
        "CUDA OOM at step 1 / step 5000",
        (
            f"{_STORIES}/test_failures.py"
            "::test_row_29_an_out_of_memory_at_the_first_step_is_told_with_what_to_change_and_not_tried_again",
        ),
    ),
    30: (
        "cgroup or platform memory kill",
        (f"{_STORIES}/test_failures.py::test_row_30_a_kill_by_the_containers_memory_limit_is_told_from_a_persons",),
    ),
    31: (
        "GPU taken by another process",
        (f"{_STORIES}/test_disk.py::test_row_31_a_gpu_that_another_process_took_is_not_claimed",),
    ),
    32: (
        "Xid/ECC, GPU lost",
        (f"{_STORIES}/test_failures.py::test_row_32_a_gpu_that_falls_off_the_bus_drains_its_box_and_the_job_moves_on",),
    ),
    33: (
        "NaN loss",
        (
            f"{_STORIES}/test_failures.py"
            "::test_row_33_a_loss_that_is_no_number_ends_it_at_once_and_the_checkpoint_before_it_is_kept",
        ),
    ),
    34: ("hung trainer", (f"{_STORIES}/test_trainer.py::test_row_34_a_hung_trainer_is_ended_once_and_goes_on",)),
    35: (
        "cancel with setsid grandchildren",
        (f"{_STORIES}/test_processes.py::test_row_35_a_cancel_ends_a_grandchild_that_left_its_session",),
    ),
    36: (
        "log flood, long lines, binary, bars",
        (
            f"{_ONE_BOX}/test_outcomes.py::test_a_flood_of_output_stays_small_in_the_queue",
            "tests/workers/runner/test_supervisor.py::test_a_flood_is_read_as_fast_as_it_comes",
        ),
    ),
    37: ("YAML bomb", ("tests/jobs/test_spec.py::test_an_alias_bomb_is_told_at_once_not_unfolded",)),
    38: (
        "paths that leave the run's directory",
        (
            "tests/jobs/test_spec.py::test_denied_on_purpose_says_why",
            "tests/jobs/test_spec.py::test_an_altered_record_is_refused_by_the_same_rules",
        ),
    ),
    39: ("shell text and newlines in values", ("tests/jobs/test_command.py::test_text_arrives_as_written",)),
    40: ("forbidden flags", ("tests/jobs/schema/test_flags.py::test_denied_with_a_reason",)),
    41: (
        "forged job written straight to Redis",
        (
            "tests/queue/test_store.py::test_a_forged_message_does_not_stop_the_scan",
            "tests/workers/agent/test_remote_control.py"
            "::test_hostile_messages_are_dropped_with_a_log_line_and_end_no_worker",
        ),
    ),
    42: (
        "unauthorised client",
        (
            "tests/ops/local/test_server.py::test_the_password_is_asked_for_and_only_its_owner_can_read_it",
            "tests/ops/local/test_server.py::test_it_listens_on_this_machine_alone",
        ),
    ),
    43: ("unicode, long and RTL names", ("tests/jobs/test_spec.py::test_names_are_normalised",)),
    44: ("secrets in records, logs and events", (f"{_ONE_BOX}/test_outcomes.py::test_no_secret_gets_out[tell]",)),
    45: (
        "push at the end fails",
        (f"{_STORIES}/test_aftercare.py::test_row_45_a_push_that_fails_is_a_success_with_a_pending_push",),
    ),
    46: (
        "submitter dies mid-submit / double Enter",
        (
            f"{_STORIES}/test_messages.py::test_row_46_enter_pressed_twice_makes_one_job",
            f"{_STORIES}/test_messages.py::test_row_46_a_submitter_that_dies_leaves_one_job_or_none",
        ),
    ),
    47: (
        "worker upgrade during a run",
        (f"{_STORIES}/test_upgrade.py::test_row_47_a_new_version_finds_the_run_of_the_old_one",),
    ),
}

#: What takes long: real workers, the real LeRobot, a browser, containers, downloads by processes of their own.
SLOW = (
    "tests/attacks/test_code_in_weights.py",
    "tests/attacks/test_stolen_box_story.py",
    "tests/attacks/test_copies.py::test_a_planted_checkpoint_is_not_resumed_from",
    "tests/jobs/safety/test_processors.py::test_the_table_is_what_the_installed_lerobot_has",
    "tests/nemesis/test_rounds.py",
    "tests/ops/flower/test_app.py",
    "tests/ops/local/test_up_trains.py",
    "tests/ops/test_autodl.py",
    "tests/ops/test_autodl_script.py",
    "tests/rig",
    "tests/scenarios",
    "tests/test_standin_hub.py",
    "tests/workers/agent/test_idle_worker.py::test_it_tells_people_and_waits_and_a_person_keeps_it_on",
    "tests/workers/agent/test_worker.py",
    "tests/workers/checkpoints/test_replica_hub.py",
    "tests/workers/hub/test_fetch.py",
    "tests/workers/hub/test_fetch_modelscope.py",
    "tests/workers/hub/test_fetch_routes.py",
    "tests/workers/postrun/test_push.py",
    "tests/workers/postrun/test_swanlab_sync.py::test_a_server_that_fails_midway_gets_the_rest_later",
    "tests/workers/postrun/test_wandb_sync.py",
    "tests/workers/runner/test_process_deaths.py",
)

#: Exceptions of SLOW and of the mark `real`, besides the tests of FAULTS.
QUICK = (
    "tests/ops/flower/test_app.py::test_it_asks_for_the_password",
    "tests/ops/flower/test_app.py::test_the_password_is_made_once_and_private",
    "tests/scenarios/end_to_end/test_one_job.py",
    "tests/scenarios/faults/test_every_row.py",
    "tests/workers/agent/test_worker.py::test_a_drained_box_says_so_and_takes_nothing_until_that_ends",
    "tests/workers/agent/test_worker.py::test_a_server_that_is_not_there_yet_is_waited_for",
    "tests/workers/agent/test_worker.py::test_a_wrong_password_is_not_waited_for",
    "tests/workers/checkpoints/test_replica_hub.py::test_copies_go_to_a_private_repository_and_come_back",
    f"{_MODELSCOPE}::test_the_hub_names_the_files_and_modelscope_brings_the_same_bytes",
    f"{_MODELSCOPE}::test_without_the_hub_its_own_commit_is_taken_and_said",
    "tests/workers/postrun/test_push.py::test_it_sends_what_lerobot_would_have",
    "tests/workers/postrun/test_push.py::test_what_the_hub_refuses[fault0-True-run `hf auth login` on box-a]",
    "tests/workers/postrun/test_wandb_sync.py::test_a_run_that_was_deleted_meanwhile_is_synced_into_a_new_one",
    # The real LeRobot: killed, stopped and resumed, loss for loss.
    "tests/workers/trainer/test_resume_real.py::test_act_killed_and_stopped_equals_the_run_that_never_was",
)


def is_slow(test: str, *, real: bool = False) -> bool:
    """Whether this test runs in `make test-all` only; `real` says that it has that mark."""
    if not (real or any(is_below(test, name) for name in SLOW)):
        return False
    kept = [*QUICK, *(name for _, names in FAULTS.values() for name in names)]
    return not any(is_below(test, name) for name in kept)


def is_below(test: str, name: str) -> bool:
    """Whether a test is the named one, or a case of it, or lies in the named file or directory."""
    return test == name or test.startswith((f"{name}/", f"{name}::", f"{name}["))
