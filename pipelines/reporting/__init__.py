"""The report of a scored run: reads a Scores directory, compares, recommends, draws and assembles one page."""
