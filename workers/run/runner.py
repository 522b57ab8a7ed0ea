"""Kept for one release: the address at which a worker of the older version starts its runners."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pi0q.workers.runner.runner_main", run_name="__main__", alter_sys=True)
