"""A FAKE of LeRobot 0.6.1 for pi0q's fast tests: put `tests/fake_lerobot` on the trainer's PYTHONPATH.

It trains nothing. `lerobot.scripts.lerobot_train` has the call structure, output tree, console lines and exit
codes of the real one, starts in milliseconds and fails on demand; see there.
"""

__version__ = "0.6.1"
