"""The emulator: arrays of modelled devices behind the same protocol as a board."""
