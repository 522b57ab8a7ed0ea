"""Kept for one release: the address at which a runner of the older version starts its downloads."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pi0q.workers.hub.download_main", run_name="__main__", alter_sys=True)
