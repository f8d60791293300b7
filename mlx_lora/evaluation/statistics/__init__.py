"""Statistics of paired comparisons: intervals, tests of pairs, verdicts, and stops before the end."""
