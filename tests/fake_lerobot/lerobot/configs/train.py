"""FAKE: where LeRobot has the class of its flags."""

from . import Config

TrainPipelineConfig = Config
