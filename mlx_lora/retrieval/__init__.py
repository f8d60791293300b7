"""Retrieval: an index of facts, answers with sources, tool-aware prompts, and smoke tests of a deployed model."""
