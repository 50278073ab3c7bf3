"""Beam jobs of the video classification system: preprocess, score and report."""
