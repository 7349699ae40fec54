"""Mechanistic interpretability of generative vision models."""
