"""The edge: what clients talk to. It authenticates, admits and relays; it never parses an answer."""
