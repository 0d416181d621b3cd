"""Decisions as plain values: who serves a slot, and what to do after a reply or a failure. No I/O here."""
