"""Kept for one release: the address at which a `pi0q box` of the older version starts the box's supervisor."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pi0q.ops.box.supervisor_main", run_name="__main__", alter_sys=True)
