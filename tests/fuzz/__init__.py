"""Readers of job files, records, messages and ledgers against any input: a few in CI, many by `make fuzz`."""
