"""What every job needs to run: runners, failures, progress."""
