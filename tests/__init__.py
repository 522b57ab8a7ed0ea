"""Tests. A package, so that `tests` means these and not what some library left in site-packages."""
