"""Plain functions (bench or station, config, ledger) -> frozen result, one file each."""
