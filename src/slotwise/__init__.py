"""The public face of slotwise."""
