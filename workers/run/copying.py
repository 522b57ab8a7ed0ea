"""Kept for one release: the address at which a runner of the older version starts the process that copies."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pi0q.workers.checkpoints.replicate_main", run_name="__main__", alter_sys=True)
