"""The report of a run: facts gathered from what its jobs left, drawn as one page and one screen."""
