"""A FAKE: the name of the library that LeRobot's diffusion policy needs; the fake LeRobot imports nothing of it."""
