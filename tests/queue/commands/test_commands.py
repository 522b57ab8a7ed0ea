"""submit, ls, show, cancel and boxes, each as its user has it."""

from __future__ import annotations

import io
import json
import math
import os
import pwd
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import redis
from rich.console import Console

from pi0q.jobs import command
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.state import State
from pi0q.jobs.transition import ended
from pi0q.ops.local import server as servers
from pi0q.queue import box_text, celery_message, submission
from pi0q.queue.commands import boxes
from pi0q.queue.current_user import user
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Reservation
from tests import guide
from tests.conftest import Command, JobDriver

GRAB_BOX = files("pi0q.jobs.examples").joinpath("grab_box.yaml").read_text(encoding="utf-8")
BAD = "train:\n  dataset: {repo_id: a/b}\n  policy: {type: pi0}\n  stepps: 5\n  batch_size: -1\n"


@pytest.fixture
def grab_box(tmp_path: Path) -> str:
    path = tmp_path / "grab_box.yaml"
    path.write_text(GRAB_BOX, encoding="utf-8")
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    (tmp_path / "bad.yaml").write_text(BAD)
    return "bad.yaml"


def everything(store: Store) -> list[str]:
    """Every key of the queue."""
    return sorted(map(str, store.client.scan_iter(f"{store.prefix}*")))


def spec(text: str) -> Spec:
    return parse(text, filename="job.yaml")


# -- submit ---------------------------------------------------------------------------------------


def test_submit_queues_the_job_and_says_how_to_see_it(pi0q: Command, grab_box: str, store: Store) -> None:
    answer = pi0q("submit", grab_box)
    (job,) = store.waiting()
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.splitlines() == [
        f"Queued grab_box_pi0_fmc3 as {job.id}.  See it with: pi0q watch {job.id}",
        "It needs 1 GPU with 90.0 GiB free and 120.0 GiB of disk.  "
        "No box is up: `pi0q worker` on a GPU machine makes it one.",
    ]
    record = store.get(job.id)
    assert Spec.from_json(record.spec) == spec(GRAB_BOX)
    assert (record.needs, record.steps) == ({"gpus": 1, "vram_mib": 92160, "disk_mib": 122880}, 50000)
    assert record.wandb_run_id == f"pi0q-{job.id}"
    (raw,) = store.client.lrange(store.prefix + celery_message.queue_key(celery_message.STEPS["normal"]), 0, -1)
    assert json.loads(raw)["headers"]["pi0q"] == {"name": "grab_box_pi0_fmc3", **record.needs}


def test_submit_reads_standard_input_and_tells_machines(call: Command, store: Store) -> None:
    told = json.loads(call("submit", "-", "--json", stdin=GRAB_BOX).stdout)
    assert [job.id for job in store.waiting()] == [told["id"]]
    assert told["name"] == "grab_box_pi0_fmc3" and told["state"] == "queued"
    assert told["needs"]["vram_mib"] == 92160


def test_many_files_are_many_jobs_in_their_order(call: Command, grab_box: str, tmp_path: Path, store: Store) -> None:
    (tmp_path / "second.yaml").write_text(GRAB_BOX.replace("name: grab_box_pi0_fmc3", "name: 抓盒子", 1))
    told = json.loads(call("submit", grab_box, "second.yaml", "--json").stdout)
    assert [job["name"] for job in told] == ["grab_box_pi0_fmc3", "抓盒子"]
    assert [job.id for job in store.waiting()] == [job["id"] for job in told]


def test_the_same_file_a_moment_later_is_a_slip_and_again_means_it(call: Command, grab_box: str, store: Store) -> None:
    first = json.loads(call("submit", grab_box, "--json").stdout)
    slip = call("submit", grab_box)
    assert slip.returncode == 0 and f"queued a moment ago as {first['id']}; nothing new was queued" in slip.stdout
    assert "pi0q submit --again" in slip.stdout
    told = json.loads(call("submit", grab_box, "--json").stdout)
    assert (told["id"], told["new"], first["new"]) == (first["id"], False, True)
    assert store.page().counts.live == 1
    assert json.loads(call("submit", grab_box, "--again", "--json").stdout)["new"]
    # Another job of the same user, and the same one once it has ended, are no slips.
    assert json.loads(call("submit", grab_box, "--rehearsal", "--json").stdout)["new"]
    store.cancel(first["id"], text="")
    assert json.loads(call("submit", grab_box, "--json").stdout)["new"]
    assert store.page().counts.live == 3


def test_a_server_that_may_drop_jobs_gets_none(call: Command, grab_box: str, tmp_path: Path) -> None:
    port = servers.choose_port(0, default=0, option="--port")
    evicting = servers.start(tmp_path / "data", port=port, log=tmp_path / "server.log")
    with redis.Redis.from_url(evicting.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    answer = call("submit", grab_box, PI0Q_REDIS_URL=evicting.url)
    assert answer.returncode == 1
    assert "CONFIG SET maxmemory-policy noeviction" in answer.stderr and "Nothing was queued" in answer.stderr
    with redis.Redis.from_url(evicting.url) as client:
        assert client.dbsize() == 0
    evicting.stop()


def test_all_faults_of_several_files_are_told_at_once(call: Command, bad: str, grab_box: str, store: Store) -> None:
    answer = call("submit", bad, grab_box, "none.yaml", "/dev/zero")
    assert (answer.returncode, answer.stdout, store.page().counts.live) == (2, "", 0)
    assert "2 errors in bad.yaml" in answer.stderr and "bad.yaml:5:" in answer.stderr
    assert "Can't read none.yaml: No such file" in answer.stderr
    # It has no end, and is not read to it.
    assert "/dev/zero:1: the file is over 64 KiB" in answer.stderr


def test_a_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `docker run --user 12345` has it."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert user().startswith(f"{os.getuid()}@")


def test_a_diverged_loss_is_no_number_of_json(call: Command, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    driver.report(job, driver.run(job), step=5, loss=math.nan)
    assert "nan" in call("ls").stdout
    for verb in ("ls", "show"):
        told = json.loads(call(verb, *[job] * (verb == "show"), "--json").stdout, parse_constant=pytest.fail)
        assert (told if verb == "show" else told[0])["loss"] is None


def test_a_bad_file_queues_nothing_and_all_its_faults_are_told(call: Command, bad: str, store: Store) -> None:
    answer = call("submit", bad)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "2 errors in bad.yaml; nothing was queued." in answer.stderr
    assert "bad.yaml:4:" in answer.stderr and "bad.yaml:5:" in answer.stderr
    assert everything(store) == []


def test_one_bad_file_of_several_queues_none(call: Command, grab_box: str, bad: str, store: Store) -> None:
    assert call("submit", grab_box, bad, grab_box).returncode == 2
    assert everything(store) == []


def test_a_file_that_is_not_there(call: Command, grab_box: str, tmp_path: Path, store: Store) -> None:
    for file in ("missing.yaml", str(tmp_path)):
        answer = call("submit", grab_box, file)
        assert answer.returncode == 2
        assert f"Can't read {file}" in answer.stderr and "Nothing was queued." in answer.stderr
    assert everything(store) == []


def test_watch_is_for_one(call: Command, grab_box: str, store: Store) -> None:
    answer = call("submit", grab_box, grab_box, "--watch")
    assert answer.returncode == 2 and "one job" in answer.stderr
    assert everything(store) == []


def test_a_dry_run_shows_the_guides_command_and_queues_nothing(call: Command, grab_box: str, store: Store) -> None:
    # It doesn't even ask for the server.
    answer = call("submit", grab_box, "--dry-run", "--json", PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    plan = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert {"argv", "env", "needs"} <= set(plan)
    assert plan["argv"][0] == "lerobot-train"
    assert set(plan["argv"]) >= guide.as_pi0q_runs_it("PI0Q_HOME/runs/JOB/output")
    assert plan["env"]["OMP_NUM_THREADS"] == "1"
    assert plan["needs"] == {"gpus": 1, "vram_mib": 92160, "disk_mib": 122880}
    assert everything(store) == []


def test_a_dry_run_for_people(call: Command, grab_box: str) -> None:
    out = call("submit", grab_box, "--dry-run").stdout
    assert "grab_box_pi0_fmc3: the file is good; nothing was queued." in out
    assert "vram 90 GiB: stated" in out and "OMP_NUM_THREADS=1" in out
    assert "--policy.type=pi0 \\\n" in out
    assert "its box pushes the last checkpoint to puheliang/pi0_fmc3_grab_box_v2" in out


def test_a_rehearsal_is_the_same_job_made_small(call: Command, grab_box: str, store: Store) -> None:
    told = json.loads(call("submit", grab_box, "--rehearsal", "--json").stdout)
    job = store.get(told["id"])
    assert job.spec["rehearsal"] is True
    assert job.steps == command.REHEARSAL_STEPS
    assert job.needs["vram_mib"] == 4096
    assert "a rehearsal" in job.history[0].text


WANDB = GRAB_BOX.replace("    project:", "    entity: ada\n    project:")


@pytest.mark.parametrize(
    ("text", "rehearsal", "url"),
    [
        (WANDB, False, "https://wandb.ai/ada/Lerobot_Fmc_Project/runs/pi0q-a1"),
        # Whose it is shows only once the box has logged in.
        (GRAB_BOX, False, None),
        (WANDB, True, None),
        (WANDB + "    mode: offline\n", False, None),
        (WANDB.replace("enable: true", "enable: false"), False, None),
    ],
)
def test_the_wandb_link_is_known_before_the_first_step(text: str, rehearsal: bool, url: str | None) -> None:
    assert submission.wandb_url(replace(spec(text), rehearsal=rehearsal), "pi0q-a1") == url


def test_without_steps_it_is_lerobots_own_number() -> None:
    assert submission.steps(spec(GRAB_BOX.replace("  steps: 50000\n", ""))) == 100_000


# -- ls -------------------------------------------------------------------------------------------


def test_ls_is_one_line_a_job(pi0q: Command, driver: JobDriver, store: Store) -> None:
    waiting, running, over = (driver.submit(name) for name in ("抓盒子", "[red]bold[/]", "third"))
    driver.report(running, driver.run(running), step=25_000, loss=0.5, phase="")
    store.cancel(over, text="no")
    answer = pi0q("ls")
    assert (answer.returncode, answer.stderr) == (0, "")
    head, *lines = answer.stdout.splitlines()
    assert head.startswith("ID ")
    assert [line.split()[:3] for line in lines] == [
        [running, "[red]bold[/]", "running"],
        [waiting, "抓盒子", "queued"],
        [over, "third", "cancelled"],
    ]
    assert "\x1b" not in answer.stdout


def test_ls_of_nothing(call: Command) -> None:
    assert "No jobs yet." in call("ls").stdout
    assert json.loads(call("ls", "--json").stdout) == []


def test_ls_of_three_hundred_says_how_many_it_hides(call: Command, driver: JobDriver) -> None:
    jobs = [driver.submit(f"job {number}") for number in range(300)]
    shown = call("ls").stdout.splitlines()
    assert len(shown) == 1 + 50 + 1
    assert shown[-1] == "… and 250 more: `pi0q ls --all`"
    assert [line.split()[0] for line in call("ls", "--all").stdout.splitlines()[1:]] == jobs
    assert [job["id"] for job in json.loads(call("ls", "--all", "--json").stdout)] == jobs


# -- show -----------------------------------------------------------------------------------------


@pytest.fixture
def failed(driver: JobDriver, store: Store) -> str:
    job = driver.submit("grab_box", wandb_url="https://wandb.ai/ada/p/runs/x")
    epoch = driver.run(job)
    saved = Saved(step=20_000, path="/data/checkpoints/020000", manifest="ab" * 32, bytes=28)
    driver.report(job, epoch, step=25_000, checkpoint=saved)
    store.move(job, ended(store.get(job), epoch, Reason.NON_FINITE_LOSS, "loss is NaN at step 25001"))
    return job


def test_show_tells_machines_everything(call: Command, failed: str) -> None:
    shown = json.loads(call("show", failed, "--json").stdout)
    for key, value in {
        "id": failed, "name": "grab_box", "state": "failed", "attempt": 1, "epoch": 1, "box": "box-a", "step": 25_000,
        "steps": 50_000, "wandb_url": "https://wandb.ai/ada/p/runs/x", "reason": "non_finite_loss",
    }.items():  # fmt: skip
        assert shown[key] == value
    assert shown["checkpoint"]["step"] == 20_000
    assert [event["state"] for event in shown["history"]] == ["queued", "claimed", "preparing", "running", "failed"]


def test_show_tells_people_what_happened_and_what_to_do(pi0q: Command, failed: str) -> None:
    answer = pi0q("show", "grab_box")
    text = " ".join(answer.stdout.split())
    assert answer.returncode == 0 and "\x1b" not in answer.stdout
    assert "reason loss is NaN at step 25001 (non_finite_loss)" in text
    assert "lower the learning rate" in text
    assert "step 20000, 0 MB, verified /data/checkpoints/020000" in text
    assert "submitted by ada@laptop" in text


def test_show_of_no_job_or_of_two(call: Command, driver: JobDriver) -> None:
    driver.submit("twin", job_id="abcd23abc123"), driver.submit("twin", job_id="abcd56abc456")
    missing, twice = call("show", "nosuchjob"), call("show", "abcd")
    assert (missing.returncode, twice.returncode) == (3, 2)
    assert "`pi0q ls --all` lists every job" in missing.stderr
    assert "could mean 2 jobs:\n  abcd23abc123  twin  queued  submitted " in twice.stderr


# -- cancel ---------------------------------------------------------------------------------------


def test_cancel_ends_what_waits_and_asks_what_runs(pi0q: Command, driver: JobDriver, store: Store, failed: str) -> None:
    waits, runs = driver.submit("waits"), driver.submit("runs")
    epoch = driver.run(runs)
    answer = pi0q("cancel", "waits", runs, failed)
    assert answer.returncode == 0
    assert answer.stdout.splitlines() == [
        "waits is cancelled.",
        f"runs is stopping; `pi0q watch {runs}` shows its end.",
        "grab_box has already failed; nothing was changed.",
    ]
    assert store.get(waits).state is State.CANCELLED
    assert store.get(waits).detail.startswith("cancelled by ")
    assert driver.report(runs, epoch) == "cancel"
    assert store.get(failed).reason is Reason.NON_FINITE_LOSS


def test_cancel_twice_changes_nothing_the_second_time(call: Command, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    first = json.loads(call("cancel", job, "--json").stdout)
    assert first == {"id": job, "state": "cancelled", "already_ended": False}
    before = store.get(job)
    assert call("cancel", job).stdout == "grab_box was cancelled before; nothing was changed.\n"
    assert store.get(job) == before


def test_cancel_with_one_wrong_name_cancels_none(call: Command, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    answer = call("cancel", job, "nosuchjob", "northis")
    assert (answer.returncode, answer.stdout) == (3, "")
    assert "'nosuchjob'" in answer.stderr and "'northis'" in answer.stderr
    assert answer.stderr.endswith("Nothing of the others was changed.\n")
    assert store.get(job).state is State.QUEUED


def test_cancel_all_ends_the_jobs_that_were_chosen(call: Command, driver: JobDriver, store: Store) -> None:
    sweep, other, runs = driver.submit("sweep_1"), driver.submit("other"), driver.submit("sweep_2")
    driver.run(runs)
    assert call("cancel").returncode == call("cancel", "--all", sweep).returncode == 2
    assert call("cancel", "--all", "--state", "ended", "--yes").returncode == 3
    # There is nobody to answer the question.
    asked = call("cancel", "--all", "--name", "sweep_*")
    assert asked.returncode == 1 and "Cancel 2 jobs for good (sweep_2, sweep_1)?" in asked.stderr
    assert store.get(sweep).state is State.QUEUED
    answers = json.loads(call("cancel", "--all", "--name", "sweep_*", "--state", "queued", "--json").stdout)
    assert [answer["id"] for answer in answers] == [sweep]
    assert (store.get(other).state, store.get(runs).wish) == (State.QUEUED, "")
    assert call("cancel", "--all", "--yes").returncode == 0
    assert (store.get(other).state, store.get(runs).wish) == (State.CANCELLED, "cancel")


@pytest.mark.parametrize("verb", [("hold",), ("release",), ("bump", "--priority", "low")], ids=" ".join)
def test_command_that_could_change_nothing_of_an_ended_job_fails(
    verb: tuple[str, ...], call: Command, driver: JobDriver, failed: str
) -> None:
    waits = driver.submit("waits")
    answer = call(*verb, waits, failed)
    assert answer.returncode == 1
    assert "grab_box has ended (failed); nothing was changed." in answer.stdout
    assert len(json.loads(call(*verb, waits, failed, "--json").stdout)) == 2


# -- boxes ----------------------------------------------------------------------------------------


def test_boxes_say_what_they_have(pi0q: Command, store: Store) -> None:
    gpus = [{"name": "RTX PRO 6000", "free_mib": 97 * 1024, "total_mib": 97 * 1024, "simulated": True}]
    known = {"gpus": gpus, "running": 1, "slots": 2, "disk_free_mib": 122_880, "lerobot": "0.6.1", "note": "busy"}
    store.announce_box("autodl-1", "1", {"status": "idle", **known})
    store.announce_box("autodl-2", "2", {"status": "idle"})
    store.client.zadd(store.prefix + "boxes", {"autodl-2": store.now_ms() - 3_600_000})
    answer = pi0q("boxes")
    _, alive, silent = answer.stdout.splitlines()
    words = " ".join(alive.split())
    assert words.startswith("autodl-1 idle ")
    assert words.endswith("ago 1/2 RTX PRO 6000 97.0/97 GiB (simulated) 120 GiB 0.6.1 busy")
    assert silent.split()[:3] == ["autodl-2", "unreachable", "1h"]
    assert " ago 0/? none " in " ".join(silent.split())
    told = {box["name"]: box for box in json.loads(pi0q("boxes", "--json").stdout)}
    assert told["autodl-1"]["gpus"] == gpus
    assert [told["autodl-1"][name] for name in ("slots", "running", "disk_free_mib")] == [2, 1, 122_880]
    assert told["autodl-2"]["status"] == "unreachable"


def card(index: int, free_gib: int, name: str = "H100") -> dict[str, object]:
    return {"name": name, "uuid": f"GPU-{index}", "free_mib": free_gib * 1024, "total_mib": 80 * 1024}


def test_boxes_show_eight_cards_in_one_cell_and_what_is_promised_as_taken() -> None:
    free = (77, 20, 3, 80, 80, 80, 39, 75)
    told = {"gpus": json.dumps([card(index, gib) for index, gib in enumerate(free)])}
    assert box_text.cards(told) == "8x H100 77 20 3 80 80 80 39 75 of 80 GiB free"
    promised = {**told, "free_mib": json.dumps([30 * 1024, -5, *(gib * 1024 for gib in free[2:])])}
    assert box_text.cards(promised) == "8x H100 30 0 3 80 80 80 39 75 of 80 GiB free"
    two_kinds = {"gpus": json.dumps([card(0, 80), card(1, 24, "A10"), card(2, 24, "A10")])}
    assert box_text.cards(two_kinds) == "H100 80.0/80 GiB, 2x A10 24 24 of 80 GiB free"
    assert box_text.cards({}) == ""


def test_boxes_are_sorted_by_name_with_numbers_as_numbers(call: Command, store: Store) -> None:
    for name in ("box-10", "box-2", "a"):
        store.announce_box(name, name, {"status": "ready"})
    assert [line.split()[0] for line in call("boxes").stdout.splitlines()[1:]] == ["a", "box-2", "box-10"]


def test_boxes_show_tells_who_is_on_which_card(call: Command, driver: JobDriver, store: Store) -> None:
    gpus = [card(0, 80), card(1, 20)]
    store.announce_box("box-a", "1", {"status": "ready", "gpus": gpus, "slots": 2, "running": 1, "home": "/data"})
    job = driver.submit("grab_box")
    claimant = Claimant(box="box-a", boot="1", lease_seconds=600)
    store.claim(job, claimant, Reservation(gpus=("GPU-1",)), text="")
    lines = call("boxes", "show", "box-a").stdout.splitlines()
    assert [line.split()[0:2] for line in lines if line.startswith("  GPU")] == [["GPU", "0"], ["GPU", "1"]]
    first, second = (line for line in lines if line.startswith("  GPU"))
    assert first.endswith("H100") and second.endswith("H100  grab_box") and "####" in second
    assert json.loads(call("boxes", "show", "box-a", "--json").stdout)["jobs"][0]["gpus"] == ["GPU-1"]
    assert call("boxes", "show", "nobox").returncode == 3


def test_boxes_show_draws_a_bar_whatever_a_box_announced() -> None:
    odd = {"name": "H100", "uuid": "GPU-0", "free_mib": 2**53, "total_mib": 1}
    box = {"name": "box-a", "status": "ready", "seen_seconds": "1", "gpus": json.dumps([odd])}
    (line,) = [line for line in box_text.details(box, []) if line.startswith("  GPU")]
    assert "." * box_text.BAR in line and len(line) < 200


def test_boxes_rm_forgets_only_what_is_gone(call: Command, driver: JobDriver, store: Store) -> None:
    for name in ("up", "stopped", "silent", "owner"):
        store.announce_box(name, name, {"status": "stopped" if name == "stopped" else "ready", "refusals": {"x": "no"}})
    driver.run(driver.submit(), "owner")
    long_ago = store.now_ms() - 3_600_000
    store.client.zadd(store.prefix + "boxes", {"silent": long_ago, "owner": long_ago})
    assert call("boxes", "rm", "silent", "stopped").returncode == 0
    for name, said in (("up", "Fix: stop its worker first"), ("owner", "still holds the lease of a job")):
        answer = call("boxes", "rm", name)
        assert answer.returncode == 2 and said in answer.stderr
    assert call("boxes", "rm", "silent").returncode == 3
    assert {box["name"] for box in store.boxes()} == {"up", "owner"}
    assert store.client.keys(f"{store.prefix}*silent*") == []


def test_a_narrow_terminal_keeps_names_and_notes() -> None:
    name, note = "autodl-container-1a2b3c4d5e-6f7a8b9c", "drained by ada@laptop: it lost a GPU"
    gpus = json.dumps([{"name": "RTX PRO 6000", "free_mib": 97 * 1024, "total_mib": 97 * 1024}])
    box = {"name": name, "status": "unreachable", "seen_seconds": "754", "gpus": gpus, "lerobot": "0.6.1", "note": note}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(boxes.table([box], {}, width=80))
    shown = console.export_text()
    assert "unreachable" in shown and "12m 34s ago" in shown and "…" not in shown
    columns = zip(*(line.ljust(80) for line in shown.splitlines()[1:]), strict=True)
    text = "".join("".join(column) for column in columns).replace(" ", "")
    assert sorted(text) == sorted(f"{name}unreachable12m34sago0/?RTXPRO600097.0/97GiB0.0GiB{note}".replace(" ", ""))


def test_no_box_says_how_to_get_one(call: Command) -> None:
    assert "pi0q worker" in call("boxes").stdout


# -- why a job waits ------------------------------------------------------------------------------


def test_a_waiting_job_says_what_it_waits_for(call: Command, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    assert "no box is up" in call("show", job).stdout
    store.announce_box("small", "1", {"status": "ready", "slots": 1, "running": 0, "refusals": {job: "VRAM: 90 of 24"}})
    store.announce_box("full", "2", {"status": "ready", "slots": 1, "running": 1})
    shown = call("show", job).stdout
    assert "small: VRAM: 90 of 24" in shown
    assert "full: busy, 1 of 1 slots in use" in shown
    assert "1 waiting do not fit" in call("boxes").stdout
    driver.run(job, "full")
    assert "waits for" not in call("show", job).stdout


def test_submit_tells_the_batch_of_several_gpus(call: Command, grab_box: str, tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text(Path(grab_box).read_text(encoding="utf-8").replace("gpus: 1", "gpus: 4"), encoding="utf-8")
    answer = call("submit", str(file), "--dry-run")
    assert answer.returncode == 0 and "--batch_size=32" in answer.stdout
    assert "grab_box_pi0_fmc3: batch 32 on each of 4 GPUs: 128 a step; the learning rate is not scaled" in answer.stderr
    assert call("submit", grab_box, "--dry-run").stderr == ""
    queued = call("submit", str(file))
    assert queued.returncode == 0 and "4 GPUs with" in queued.stdout and "128 a step" in queued.stderr
