"""Kept for one release: the address at which a worker of the older version starts its uploads."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pi0q.workers.postrun.push_main", run_name="__main__", alter_sys=True)
