"""The real llama.cpp, in a process of its own: it can abort, and says on standard error why."""
