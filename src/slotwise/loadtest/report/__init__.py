"""What a load test found, for people: `html` writes a page with plots, `table` prints to a terminal.

Both show the same `grids`, in which `numbers` writes the figures.
"""
