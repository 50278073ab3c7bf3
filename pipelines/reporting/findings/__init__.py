"""What follows from the scores: intervals, comparisons, recommendations."""
