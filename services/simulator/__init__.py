"""Both providers' APIs, simulated on the wire: for `make run` without keys, end-to-end tests, fault tests and load."""
