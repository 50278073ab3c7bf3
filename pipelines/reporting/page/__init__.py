"""The report as a page: figures, tables, words."""
