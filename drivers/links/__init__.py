"""Transports that the drivers share."""
