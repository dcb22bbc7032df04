"""Whole training steps of emulated networks in compiled code, one replica after another."""
