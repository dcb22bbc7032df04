"""Twins: programs that speak an instrument's side of its real wire, with emulated devices behind it."""
