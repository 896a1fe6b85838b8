"""Measurements as ratios against a stated baseline in the same run; needs torch, numpy and typer alone."""
