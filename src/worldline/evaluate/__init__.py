"""How good a result is: pure functions from arrays to numbers, protocols, and the report that keeps both together."""
