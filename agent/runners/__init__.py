"""Where an attempt's trainer is launched: one Protocol, one conformance suite (tests/contract/runner)."""
