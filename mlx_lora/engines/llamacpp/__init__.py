"""llama.cpp in a subprocess: it can abort, and writes the reason to standard error."""
