"""The framework-free core: events, accounting, ledger, statement, mechanisms."""
