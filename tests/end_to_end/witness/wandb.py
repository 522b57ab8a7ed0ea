"""In place of the real one, whose import takes seconds; the fake LeRobot makes its runs itself."""

run = None


def init(*_: object, **__: object) -> None: ...
