"""SwanLab's run of this life, in its offline mode: it lies on the disk, and the box sends it (postrun/swanlab_sync.py).

So no network is near the training, and no key: neither can stop it, and what a kill leaves is sent all the same. All
lives write the same run id. The server takes of each what it does not have, by step.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Settings as JSON: id, project, workspace, name, dir
VARIABLE = "PI0Q_SWANLAB"
#: how long a written checkpoint waits for the rows before it to be on the disk, seconds; SwanLab gathers them for 0.5
FLUSH_S = 5.0
#: how long SwanLab may take to begin, most of it its import, seconds
BEGIN_S = 120.0
#: exit codes of a training that did all it was to do; of one that was told to stop
DONE, INTERRUPTED = (0, 78), 75


class SwanLabRun:
    """One run directory of SwanLab."""

    name = "swanlab"

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self.run: Any = None
        self._logged = self._stored = 0
        self._written = threading.Condition()

    @classmethod
    def of_json(cls, text: str) -> SwanLabRun:
        return cls(json.loads(text))

    def begin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """In a thread: begun in the main one, SwanLab takes SIGINT for itself and can be ended there alone."""
        failed = list[BaseException]()

        def begin() -> None:
            try:
                # It would tell people to send the run by hand, which makes another one of it.
                with contextlib.redirect_stdout(io.StringIO()):
                    self._begin(config)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=begin, name="swanlab.init", daemon=True)
        thread.start()
        thread.join(BEGIN_S)
        if failed or self.run is None:
            raise failed[0] if failed else TimeoutError("it did not begin in time")
        print(f"pi0q: SwanLab's run {self.settings['id']} is written to {self.run.dir}; the box sends it", flush=True)
        return {"run_id": self.settings["id"], "dir": str(self.run.dir)}

    def _begin(self, config: Mapping[str, Any]) -> None:
        swanlab: Any = importlib.import_module("swanlab")
        of = self.settings
        Path(of["dir"]).mkdir(parents=True, exist_ok=True)
        run = swanlab.init(
            mode="offline",
            id=of["id"],
            project=of["project"],
            workspace=of.get("workspace") or None,
            name=of["name"],
            log_dir=of["dir"],
            # What it can't write it would drop: paths as text.
            config=json.loads(json.dumps(config, default=str)),
            settings=self._quiet(swanlab),
        )
        self._write_through(run)
        self.run = run

    def _quiet(self, swanlab: Any) -> Any:
        """Numbers alone: no second log, no list of packages, no git, no threads that watch the machine."""
        kind = swanlab.Settings
        off = dict.fromkeys(("runtime", "requirements", "conda", "git", "swanlab", "monitor"), False)
        return kind(interactive=False, terminal=kind.Terminal(proxy_type="none"), probe=kind.Probe(**off))

    def _write_through(self, run: Any) -> None:
        """Have its writer leave nothing in memory. It has no setting for that: a version that is made in another way
        writes as it does, and a kill then costs the last rows."""
        with contextlib.suppress(AttributeError):
            core = run._ctx.core
            upsert, store = core.upsert_scalars, core._store
            store.ensure_flushed()

            def upsert_and_write(scalars: Any) -> None:
                upsert(scalars)
                store.ensure_flushed()
                with self._written:
                    self._stored += len(scalars)
                    self._written.notify_all()

            core.upsert_scalars = upsert_and_write
            self._through = True

    _through = False

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        rows = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if rows:
            self._logged += len(rows)
            self.run.log(rows, step=step)

    def flush(self) -> None:
        if self._through:
            with self._written:
                self._written.wait_for(lambda: self._stored >= self._logged, FLUSH_S)

    def end(self, code: int) -> None:
        if self.run is None:
            return
        how: dict[str, str] = {}
        if code == INTERRUPTED:
            how = {"state": "aborted", "error": "the box stopped it; it goes on from its checkpoint"}
        elif code not in DONE:
            how = {"state": "crashed", "error": f"the trainer ended with {code}"}
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.finish(**how)
