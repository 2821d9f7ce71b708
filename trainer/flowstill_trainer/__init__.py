"""Distillation: from a teacher and a dataset to a published student."""
