"""The disk under `pi0q up` fills up: every command names it, and nothing that was answered for is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.conftest import NOWHERE
from tests.rig import machine

#: $1: the Python, $2: a directory that becomes a small disk, $3: a job file.
STORY = """
mount -t tmpfs -o size=60m small "$2" || exit 77
export PI0Q_HOME="$2/home"
pi0q() { "$1" -m pi0q.queue.cli "${@:2}" 2>&1; echo "[$?]"; }
python=$1 file=$3
"$python" -m pi0q.queue.cli up --port 0 --no-worker --no-flower --no-web > "$3.up" 2>&1 &
up=$!
for n in $(seq 300); do grep -q 'Ctrl-C stops it' "$3.up" && break; sleep 0.1; done
echo "--- before"; pi0q "$python" submit "$file"
dd if=/dev/zero of="$2/filler" bs=64k 2> /dev/null
for n in $(seq 40); do
    pi0q "$python" submit --again "$file" > "$3.submit"
    grep -q 'disk under it is full' "$3.submit" && break
done
echo "--- submit"; cat "$3.submit"
echo "--- ls"; pi0q "$python" ls
echo "--- doctor"; pi0q "$python" doctor
for n in $(seq 100); do grep -q 'disk under the queue' "$3.up" && break; sleep 0.1; done
echo "--- up"; cat "$3.up"
rm "$2/filler"
for n in $(seq 300); do pi0q "$python" ls --json > "$3.ls"; grep -q '^\\[0\\]' "$3.ls" && break; sleep 0.2; done
echo "--- after"; cat "$3.ls"
kill $up; wait $up
"""


@pytest.mark.skipif(not machine.ROOT or bool(machine.refusal()), reason="no mounts here")
def test_a_full_disk_under_the_queue_is_named_by_every_command(tmp_path: Path, env: dict[str, str]) -> None:
    small, job = tmp_path / "small", tmp_path / "job.yaml"
    small.mkdir()
    job.write_text("name: grab_box\ntrain: {dataset: {repo_id: a/b}, policy: {type: act}}\n")
    script = ["unshare", "-m", "bash", "-c", STORY, "story", sys.executable, str(small), str(job)]
    done = subprocess.run(script, env={**env, **NOWHERE}, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode == 77:
        pytest.skip("no mounts here")
    parts = {part.partition("\n")[0]: part for part in done.stdout.split("--- ")}
    assert "[0]" in parts["before"], done.stdout + done.stderr
    told = parts["submit"]
    assert "the disk under it is full" in told and str(small / "home" / "server") in told, told
    assert "Free space there" in told and "[4]" in told and "tunnel" not in told
    # Between two ends the server is up, and reading needs no room.
    assert "grab_box" in parts["ls"] or "the disk under it is full" in parts["ls"], parts["ls"]
    assert "queue's disk" in parts["doctor"] and "full, so no job can be queued" in parts["doctor"], parts["doctor"]
    assert "The disk under the queue is full" in parts["up"] and "MiB" in parts["up"], parts["up"]
    assert "grab_box" in parts["after"] and "[0]" in parts["after"], parts["after"]
