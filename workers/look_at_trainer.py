"""Kept for one release: a worker of the older version hands this text to the trainer's Python.

It does so after an upgrade where both share one environment, so pi0q can be imported there.
"""

from pi0q.workers.trainer.inspect_main import main

if __name__ == "__main__":
    main()
