"""The coincidence update: ``reference`` is the definition, the others must agree with it."""
