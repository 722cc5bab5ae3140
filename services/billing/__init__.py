"""Billing: the one owner of the database. Takes usage events, keeps the immutable ledger, answers for it."""
