"""Everything in one process: the embedded default, with the same services, handlers and invariants."""
