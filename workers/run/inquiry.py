"""Kept for one release: the address at which a worker of the older version asks the Hub about a job."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pi0q.workers.hub.access_main", run_name="__main__", alter_sys=True)
