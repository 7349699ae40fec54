"""Figures and the static dashboard: pages from data, never from models."""

from interp.dashboards.bundle import build_dashboard

__all__ = ["build_dashboard"]
