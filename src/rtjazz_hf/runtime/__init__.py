"""How weights lie in memory, and what the machine can do: alignment, packing, precision, 8 and 4 bits, threads."""
