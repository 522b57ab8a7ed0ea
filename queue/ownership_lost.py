"""The errors of a process that no longer owns its job. Standard library only: helper processes import it as well."""

from __future__ import annotations


class OwnershipLost(Exception):
    """The caller does not own this job (any more) and must stop writing."""


class StaleServer(OwnershipLost):
    """The server came back with older data than the caller knows of; the box must restore the job there first."""
