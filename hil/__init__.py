"""The core: protocol, tiles, algorithms, guard, ledger and command. It knows no board and no emulator."""
