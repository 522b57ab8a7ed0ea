"""Helper process that packs a run's compiled kernels for other boxes, or unpacks those of another box.

{"act": "pack", "place": …, "key": …, "roots": […], "job": …, "lease": …, "parent": …,
 "caches": …, "compiled_for": {…}}                                            on stdin
{"act": "unpack", …, "into": …, "named": [SHA-256, …], "all_here": false}
{"act": "look", …, "named": […], "all_here": false}                           does an archive lie there?
{"alive": 4194304}                                                            on stdout, while bytes move
{"packed": SHA-256, "files": 812, "bytes": 90000000} | {"unpacked": {…} or null, "refused": […]}
{"there": true} | {"failed": "why"}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs import compiled_kernels
from pi0q.jobs.compiled_kernels import BadArchive, Manifest
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints.replica_directory import TargetUnusable
from pi0q.workers.checkpoints.replicate_main import LeaseGuard, quiet
from pi0q.workers.compiled import archive
from pi0q.workers.compiled.shared_directory import SharedKernels, Trust
from pi0q.workers.host import helper_base
from pi0q.workers.host.helper_base import HelperProcess


class CompiledJob(HelperProcess):
    """Packs or unpacks one archive."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self.lease = LeaseGuard(request["lease"])
        roots = tuple(Path(root) for root in request["roots"])
        self.shared = SharedKernels(place=Path(request["place"]), key=str(request["key"]), roots=roots)

    def count(self, size: int) -> None:
        """Note that bytes were moved. Raises LeaseExpired."""
        super().count(size)
        self.lease.require()

    def run(self) -> None:
        """Serve the request; the last line says how it ended."""
        acts = {"pack": self.pack, "unpack": self.unpack, "look": self.look}
        self.start_heartbeat()
        try:
            end = acts[self.request["act"]]()
        except (BadArchive, TargetUnusable, OwnershipLost) as error:
            end = {"failed": str(error)}
        except OSError as error:
            end = {"failed": f"{self.request['place']}: {error.strerror or error}"}
        self.emit(**end)

    def pack(self) -> dict[str, Any]:
        """Pack this box's kernels beside the training."""
        quiet()
        request = self.request
        text = self.shared.put(request["job"], Path(request["caches"]), request["compiled_for"], self.count)
        manifest = Manifest.from_text(text, key=self.shared.key)
        # They are complete here: no later run of this box looks for others.
        archive.write_manifest(Path(request["caches"]), text)
        return {"packed": compiled_kernels.sha256(text), "files": len(manifest.files), "bytes": manifest.bytes}

    def unpack(self) -> dict[str, Any]:
        """Unpack the newest archive that may be used."""
        found = self.shared.fetch(Path(self.request["into"]), self._trust(), self.count)
        return {"unpacked": vars(found) if found else None, "refused": self.shared.refused[:3]}

    def look(self) -> dict[str, Any]:
        """Say whether an archive lies there already."""
        return {"there": self.shared.holds(self._trust())}

    def _trust(self) -> Trust:
        return Trust(named=frozenset(self.request["named"]), all_here=bool(self.request["all_here"]))


def main() -> None:
    helper_base.main(CompiledJob)


if __name__ == "__main__":
    main()
