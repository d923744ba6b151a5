"""How often the intervals and labels of the analysis hold the truth, in made-up runs whose truth is known."""
