"""From an adapter to other programs' formats, each step verified against the adapter in MLX."""
